"""The instructions of the pixel interpreter. Generated from spec/pixels.toml by spec/generate.py."""

from __future__ import annotations

from typing import NamedTuple

INSTRUCTION = 250


class Opcode(NamedTuple):
    """An instruction: `code` and name; what its immediate may be, names counted from 0, "slot" or "vector"."""

    code: int
    name: str
    immediates: tuple[str, ...]
    operand: str


OPCODES = (
    Opcode(0, "LIT", (), ""),
    Opcode(1, "TENSOR", (), ""),
    Opcode(2, "INPUT", ("bytes", "f32"), ""),
    Opcode(3, "MATMUL", (), ""),
    Opcode(4, "ADD", (), ""),
    Opcode(5, "MUL", (), ""),
    Opcode(6, "ACT", ("relu", "gelu", "silu", "tanh", "sigmoid"), ""),
    Opcode(7, "NORM", ("layer", "rms", "l2", "softmax"), ""),
    Opcode(8, "REDUCE", ("sum", "mean", "max", "argmax"), ""),
    Opcode(9, "CALL", (), "slot"),
    Opcode(10, "DUP", (), ""),
    Opcode(11, "DROP", (), ""),
    Opcode(12, "SWAP", (), ""),
    Opcode(13, "OUT", (), ""),
    Opcode(255, "NEURAL_EXEC", (), "vector"),
)
