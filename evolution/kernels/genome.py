"""What a kernel is: a straight-line program of a stack machine over one f32 vector. Pure.

The stack holds the input vector at first; at the end it holds the result, a vector, alone. Values are vectors of `dim`
elements, or scalars. Every instruction is one that the pixel machine has, so a kernel runs as an `evolved.*` slot
(`to_pixels`), as a WGSL compute shader (`to_wgsl`), and in numpy (`reference`).

The bytes of a vector travel in pixels of three, so `dim` is a multiple of 3.
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
"""Values on the stack: each is a block of registers of the shader."""
MAX_DIM = 4092
"""Elements of a vector: so many codes fill a slot."""


@dataclass(frozen=True)
class PushScalar:
    """Push a finite f32."""

    value: float


@dataclass(frozen=True)
class PushVector:
    """Push codes[i] * step + offset for each element i: a vector in a byte an element, as `INPUT bytes` takes it."""

    codes: bytes
    step: float
    offset: float

    def values(self) -> NDArray[np.float32]:
        """The vector f32 (dim,), multiply and add rounded separately, as every machine computes it."""
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
    """A function of every element of the top."""

    function: Act


@dataclass(frozen=True)
class Normalise:
    """Normalise the vector on top."""

    norm: Norm


@dataclass(frozen=True)
class ReduceTo:
    """Replace the vector on top by a scalar."""

    reduce: Reduce


Instruction: TypeAlias = PushScalar | PushVector | Apply | Activate | Normalise | ReduceTo


@dataclass(frozen=True)
class EvolvedKernel:
    """A program over vectors of `dim` elements; `check` says whether it is one."""

    dim: int
    instructions: tuple[Instruction, ...]


def check(kernel: EvolvedKernel) -> None:
    """Raises InputError, naming the instruction, for what is no kernel."""
    if kernel.dim % 3 or not 3 <= kernel.dim <= MAX_DIM:
        remedy = f"use a multiple of 3 up to {MAX_DIM}: the bytes of a vector travel in whole pixels"
        raise InputError(f"the kernel is for vectors of {kernel.dim} elements", remedy=remedy)
    stack = stacks(kernel)[-1]
    if stack != ("vector",):
        what = f"the kernel leaves {_shown(stack)} on its stack"
        raise InputError(what, remedy="make it leave one vector, the result")


def stacks(kernel: EvolvedKernel) -> tuple[tuple[Value, ...], ...]:
    """What lies on the stack, the top last, before each instruction and behind the last one.

    Raises InputError where an instruction cannot run or has an operand that it cannot have.
    """
    stack: tuple[Value, ...] = ("vector",)
    found = [stack]
    for number, instruction in enumerate(kernel.instructions):
        try:
            stack = _after(stack, instruction, kernel.dim)
        except ValueError as error:
            remedy = "give each instruction the operands that it takes"
            raise InputError(
                f"instruction {number} of the kernel, {_name(instruction)}: {error}", remedy=remedy
            ) from error
        found.append(stack)
    return tuple(found)


def _after(stack: tuple[Value, ...], instruction: Instruction, dim: int) -> tuple[Value, ...]:
    """The stack behind an instruction. Raises ValueError."""
    match instruction:
        case PushScalar(value):
            _require_f32(value)
            stack += ("scalar",)
        case PushVector(codes, step, offset):
            if len(codes) != dim:
                raise ValueError(f"{len(codes)} codes are no vector of {dim} elements")
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
        raise ValueError(f"it takes {count} values, and there is {_shown(stack)}")


def _require_vector(stack: tuple[Value, ...]) -> None:
    if not stack or stack[-1] != "vector":
        raise ValueError("it takes a vector")


def _require_f32(*numbers: float) -> None:
    for number in numbers:
        if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(f"{number} is no finite f32")
        if float(np.float32(number)) != number:
            raise ValueError(f"{number} is not exact in f32")


def _require_one_of(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"{name!r:.40} is none of {', '.join(names)}")


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
    """The kernel as JSON values; codes are hexadecimal."""
    return {"dim": kernel.dim, "instructions": [_instruction_json(instruction) for instruction in kernel.instructions]}


def from_json(value: Any) -> EvolvedKernel:
    """The kernel of `to_json`, checked. Raises InputError for anything else."""
    try:
        kernel = EvolvedKernel(_integer(value["dim"]), tuple(_instruction(row) for row in value["instructions"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"this is no kernel ({error!r:.80})", remedy="give what `to_json` made") from error
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
    raise ValueError(f"{row!r:.60} is no instruction")


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > sys.maxsize:
        raise ValueError(f"{value!r:.40} is no number of elements")
    return value
