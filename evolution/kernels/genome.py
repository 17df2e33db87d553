"""Kernels: straight-line programs of a stack machine over one f32 vector. Pure.

The stack initially holds the input vector; at the end it must hold exactly one vector, the result. Values are vectors
of `dim` elements, or scalars. Every instruction exists in the pixel machine, so a kernel runs in an `evolved.*` slot
(`to_pixels`), as a WGSL compute shader (`to_wgsl`), and in numpy (`reference`).

The bytes of a vector are sent in pixels of three bytes, so `dim` is a multiple of 3.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from vboot.errors import InputError

Operation: TypeAlias = Literal["add", "mul", "dup", "drop", "swap"]
Act: TypeAlias = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]
Norm: TypeAlias = Literal["layer", "rms", "l2", "softmax"]
Reduce: TypeAlias = Literal["sum", "mean", "max"]
Value: TypeAlias = Literal["vector", "scalar"]

ACTS: tuple[Act, ...] = get_args(Act)
NORMS: tuple[Norm, ...] = get_args(Norm)
REDUCES: tuple[Reduce, ...] = get_args(Reduce)
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

MAX_DEPTH = 8
"""Values on the stack: each takes a block of registers of the shader."""
MAX_DIM = 4092
"""Elements of a vector: this many codes fill a slot."""


@dataclass(frozen=True)
class PushScalar:
    """Push a finite f32."""

    value: float


@dataclass(frozen=True)
class PushVector:
    """Push the vector codes[i] * step + offset, one byte an element, as `INPUT bytes` reads it."""

    codes: bytes
    step: float
    offset: float

    def values(self) -> NDArray[np.float32]:
        """The vector f32 (dim,); the product and the sum are rounded separately, as on every machine."""
        codes = np.frombuffer(self.codes, np.uint8).astype(np.float32)
        with np.errstate(all="ignore"):
            values: NDArray[np.float32] = codes * np.float32(self.step) + np.float32(self.offset)
        return values


@dataclass(frozen=True)
class Apply:
    """ADD, MUL, DUP, DROP or SWAP."""

    operation: Operation


@dataclass(frozen=True)
class Activate:
    """Apply a function to every element of the top value."""

    function: Act


@dataclass(frozen=True)
class Normalise:
    """Normalise the vector on top."""

    norm: Norm


@dataclass(frozen=True)
class ReduceTo:
    """Reduce the vector on top to a scalar."""

    reduce: Reduce


Instruction: TypeAlias = PushScalar | PushVector | Apply | Activate | Normalise | ReduceTo


@dataclass(frozen=True)
class EvolvedKernel:
    """A program over vectors of `dim` elements; `check` validates it."""

    dim: int
    instructions: tuple[Instruction, ...]


def check(kernel: EvolvedKernel) -> None:
    """Raises InputError, which names the instruction, for an invalid kernel."""
    if kernel.dim % 3 or not 3 <= kernel.dim <= MAX_DIM:
        remedy = f"use a multiple of 3 up to {MAX_DIM}"
        raise InputError(f"the kernel is for vectors of {kernel.dim} elements", remedy=remedy)
    stack = stacks(kernel)[-1]
    if stack != ("vector",):
        what = f"expected the kernel to leave one vector on its stack, it leaves {_shown(stack)}"
        raise InputError(what, remedy="add or remove instructions at its end")


def stacks(kernel: EvolvedKernel) -> tuple[tuple[Value, ...], ...]:
    """The values on the stack, the top last, before each instruction and after the last one.

    Raises InputError if an instruction cannot run or has an invalid operand.
    """
    stack: tuple[Value, ...] = ("vector",)
    found = [stack]
    for number, instruction in enumerate(kernel.instructions):
        try:
            stack = _after(stack, instruction, kernel.dim)
        except ValueError as error:
            remedy = "give each instruction valid operands"
            raise InputError(
                f"instruction {number} of the kernel, {_name(instruction)}: {error}", remedy=remedy
            ) from error
        found.append(stack)
    return tuple(found)


def _after(stack: tuple[Value, ...], instruction: Instruction, dim: int) -> tuple[Value, ...]:
    """The stack after an instruction. Raises ValueError."""
    match instruction:
        case PushScalar(value):
            _require_f32(value)
            stack += ("scalar",)
        case PushVector(codes, step, offset):
            if len(codes) != dim:
                raise ValueError(f"expected {dim} codes, got {len(codes)}")
            _require_f32(step, offset)
            stack += ("vector",)
        case Apply(operation):
            stack = _applied(stack, operation)
        case Activate(function):
            _require_values(stack, 1)
            _require_one_of(function, ACTS)
        case Normalise(norm):
            _require_vector(stack)
            _require_one_of(norm, NORMS)
        case ReduceTo(reduce):
            _require_vector(stack)
            _require_one_of(reduce, REDUCES)
            stack = (*stack[:-1], "scalar")
    if len(stack) > MAX_DEPTH:
        raise ValueError(f"the stack would hold more than {MAX_DEPTH} values")
    return stack


def _applied(stack: tuple[Value, ...], operation: Operation) -> tuple[Value, ...]:
    _require_one_of(operation, OPERATIONS)
    _require_values(stack, 1 if operation in ("dup", "drop") else 2)
    match operation:
        case "dup":
            return (*stack, stack[-1])
        case "drop":
            return stack[:-1]
        case "swap":
            return (*stack[:-2], stack[-1], stack[-2])
        case _:
            return (*stack[:-2], "vector" if "vector" in stack[-2:] else "scalar")


def _require_values(stack: tuple[Value, ...], count: int) -> None:
    if len(stack) < count:
        raise ValueError(f"it needs {count} values, the stack holds {_shown(stack)}")


def _require_vector(stack: tuple[Value, ...]) -> None:
    if not stack or stack[-1] != "vector":
        raise ValueError("it needs a vector on top of the stack")


def _require_f32(*numbers: float) -> None:
    for number in numbers:
        if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(f"expected a finite f32 number, got {number}")
        if float(np.float32(number)) != number:
            raise ValueError(f"{number} is not exact in f32")


def _require_one_of(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}, got {name!r:.40}")


def _shown(stack: tuple[Value, ...]) -> str:
    return f"{len(stack)} values" if len(stack) > 1 else f"a {stack[0]}" if stack else "nothing"


def _name(instruction: Instruction) -> str:
    return type(instruction).__name__


_TAGS: Mapping[type[Instruction], str] = {
    PushScalar: "scalar",
    PushVector: "vector",
    Apply: "apply",
    Activate: "act",
    Normalise: "norm",
    ReduceTo: "reduce",
}


def to_json(kernel: EvolvedKernel) -> dict[str, Any]:
    """The kernel as JSON values; codes are hexadecimal strings."""
    return {"dim": kernel.dim, "instructions": [_instruction_json(instruction) for instruction in kernel.instructions]}


def from_json(value: Any) -> EvolvedKernel:
    """The kernel that `to_json` wrote, validated. Raises InputError for anything else."""
    try:
        kernel = EvolvedKernel(_integer(value["dim"]), tuple(_instruction(row) for row in value["instructions"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the JSON is not a kernel ({error!r:.80})", remedy="give what `to_json` returned") from error
    check(kernel)
    return kernel


def _instruction_json(instruction: Instruction) -> list[str | float]:
    operands = (value.hex() if isinstance(value, bytes) else value for value in vars(instruction).values())
    return [_TAGS[type(instruction)], *operands]


def _instruction(row: Any) -> Instruction:
    """Raises ValueError, OverflowError."""
    match row:
        case ["scalar", int() | float() as value]:
            return PushScalar(float(value))
        case ["vector", str(codes), int() | float() as step, int() | float() as offset]:
            return PushVector(bytes.fromhex(codes), float(step), float(offset))
        # `check` judges the names.
        case ["apply", str(name)]:
            return Apply(cast(Operation, name))
        case ["act", str(name)]:
            return Activate(cast(Act, name))
        case ["norm", str(name)]:
            return Normalise(cast(Norm, name))
        case ["reduce", str(name)]:
            return ReduceTo(cast(Reduce, name))
    raise ValueError(f"{row!r:.60} is not an instruction")


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > sys.maxsize:
        raise ValueError(f"{value!r:.40} is not a number of elements")
    return value
