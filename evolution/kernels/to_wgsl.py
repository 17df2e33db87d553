"""Kernels as WGSL compute shaders: one self-contained file, for a batch of vectors. Pure.

The shader's entry point is ENTRY_POINT. Group 0 binds the input vectors, f32 (n, dim), at 0 (read-only), and the
results of the same size at 1. One workgroup transforms one vector: dispatch (n, 1, 1). WGSL (W3C, section "Floating
Point Accuracy") lets a device fuse and round operations, so the results equal those of `reference` within TOLERANCE.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evolution.kernels.genome import (
    Act,
    Activate,
    Apply,
    EvolvedKernel,
    Instruction,
    Normalise,
    PushScalar,
    PushVector,
    ReduceTo,
    Value,
    check,
)
from evolution.kernels.reference import LANES

ENTRY_POINT = "transform"
TOLERANCE = 1e-5
"""The greatest deviation from the reference, relative to the largest element of a vector."""

_PRELUDE = Path(__file__).with_name("prelude.wgsl")
_OPERATORS = {"add": "+", "mul": "*"}
_FUNCTIONS: Mapping[Act, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "tanh": "hyperbolic_tangent",
    "sigmoid": "sigmoid",
}


@dataclass
class _Body:
    """The statements of the entry point while it is generated.

    `stack` holds the variables of the values; `free` holds variables whose values are no longer needed.
    """

    stack: list[tuple[Value, str]] = field(default_factory=list)
    free: dict[Value, list[str]] = field(default_factory=lambda: {"vector": [], "scalar": []})
    declarations: list[str] = field(default_factory=list)
    constants: dict[bytes, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def push(self, value: Value) -> str:
        """Allocate a variable for a new value; returns its name."""
        if self.free[value]:
            name = self.free[value].pop()
        else:
            name = f"{value[0]}{len(self.declarations)}"
            self.declarations.append(f"var {name}: {'Share' if value == 'vector' else 'f32'};")
        self.stack.append((value, name))
        return name

    def pop(self) -> tuple[Value, str]:
        """Remove the top value; its variable may be reused."""
        value, name = self.stack.pop()
        self.free[value].append(name)
        return value, name

    def constant(self, codes: bytes) -> str:
        """The name of the function that fills a vector with the codes."""
        return self.constants.setdefault(codes, f"codes{len(self.constants)}")

    def each(self, statement: str) -> None:
        """Add a statement that runs for every element; its index is `i`."""
        self.lines.append(f"for (var i = 0u; i < owned(lane); i++) {{ {statement} }}")


def source(kernel: EvolvedKernel) -> str:
    """The shader's source. Raises InputError for an invalid kernel."""
    check(kernel)
    body = _Body()
    first = body.push("vector")
    body.lines.append(f"fetch(row, lane, &{first});")
    for instruction in kernel.instructions:
        _emit(instruction, body)
    body.lines.append(f"store(row, lane, &{body.stack[-1][1]});")
    statements = "".join(f"    {line}\n" for line in (*body.declarations, *body.lines))
    constants = "".join(_constant(name, codes) for codes, name in body.constants.items())
    return (
        f"const DIM = {kernel.dim}u;\n\n{_prelude()}\n{constants}"
        f"@compute @workgroup_size(LANES)\nfn {ENTRY_POINT}(\n"
        "    @builtin(workgroup_id) group: vec3<u32>,\n    @builtin(local_invocation_index) lane: u32,\n) {\n"
        f"    let row = group.x;\n{statements}}}\n"
    )


@functools.cache
def _prelude() -> str:
    return _PRELUDE.read_text(encoding="utf-8")


def _emit(instruction: Instruction, body: _Body) -> None:
    match instruction:
        case PushScalar(value):
            body.lines.append(f"{body.push('scalar')} = {_f32(value)};")
        case PushVector(codes, step, offset):
            name = body.push("vector")
            body.lines.append(f"{body.constant(codes)}(lane, &{name});")
            body.each(f"{name}[i] = {name}[i] * {_f32(step)} + {_f32(offset)};")
        case Apply("dup"):
            kind, name = body.stack[-1]
            body.lines.append(f"{body.push(kind)} = {name};")
        case Apply("drop"):
            body.pop()
        case Apply("swap"):
            body.stack[-1], body.stack[-2] = body.stack[-2], body.stack[-1]
        case Apply(operation):
            _combine(_OPERATORS[operation], body)
        case Activate(function):
            kind, name = body.stack[-1]
            if kind == "vector":
                body.each(f"{name}[i] = {_FUNCTIONS[function]}({name}[i]);")
            else:
                body.lines.append(f"{name} = {_FUNCTIONS[function]}({name});")
        case Normalise(norm):
            body.lines.append(f"norm_{norm}(lane, &{body.stack[-1][1]});")
        case ReduceTo(reduce):
            _, vector = body.pop()
            body.lines.append(f"{body.push('scalar')} = reduce_{reduce}(lane, &{vector});")


def _combine(operator: str, body: _Body) -> None:
    """Combine the two top values, in the variable of a vector if one of them is a vector."""
    if body.stack[-1][0] == "vector":
        body.stack[-1], body.stack[-2] = body.stack[-2], body.stack[-1]
    top, other = body.pop()
    value, name = body.stack[-1]
    if value == "vector":
        body.each(f"{name}[i] = {name}[i] {operator} {other}{'[i]' if top == 'vector' else ''};")
    else:
        body.lines.append(f"{name} = {name} {operator} {other};")


def _constant(name: str, codes: bytes) -> str:
    """The function that fills each lane with its codes, four to a word.

    It has no loop and no table: drivers compile an index into a table to as many comparisons as the table has entries.
    """
    words = np.frombuffer(codes.ljust(-(-len(codes) // LANES) * LANES, b"\0"), "<u4").reshape(-1, LANES // 4)
    rows = (", ".join(f"0x{word:08x}u" for word in row) for row in words.tolist())
    lines = "".join(f"    (*x)[{i}] = code(lane, vec4({row}));\n" for i, row in enumerate(rows))
    return f"fn {name}(lane: u32, x: ptr<function, Share>) {{\n{lines}}}\n\n"


def _f32(value: float) -> str:
    return f"{value!r}f" if value >= 0 else f"({value!r}f)"
