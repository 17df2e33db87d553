"""Kernels as pixels: the program of an `evolved.*` slot, and the programs that call it. Pure.

machine.mutate([edit(kernel, slot=3)], confidence=0.95)
for program in calls(kernel, vectors, slot=3):
    output += machine.execute_pixels(program).output
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evolution.kernels.genome import (
    Activate,
    Apply,
    EvolvedKernel,
    Instruction,
    Normalise,
    PushScalar,
    PushVector,
    ReduceTo,
    check,
)
from vboot.errors import InputError
from vboot.protocol.tables import PROGRAM_PIXELS_LIMIT
from vboot.weights.edits import Program
from vboot.weights.pixels import PIXEL_BYTES, assemble

SLOTS = 8
_PIXELS_AT_ONCE = 65_536
"""The most instructions of one program. A pixel is at most one instruction, and a program of this many pixels,
including those of the calls, stays below the machine's other limits."""


def source(kernel: EvolvedKernel) -> str:
    """The kernel in the language of `vboot.weights.pixels`. Raises InputError for an invalid kernel."""
    check(kernel)
    return "".join(f"{line}\n" for instruction in kernel.instructions for line in _lines(instruction)) + "OUT\n"


def program(kernel: EvolvedKernel) -> bytes:
    """The pixels, three bytes each. Raises InputError for an invalid kernel, or one too long for a slot."""
    pixels = assemble(source(kernel))
    if len(pixels) > PIXEL_BYTES * PROGRAM_PIXELS_LIMIT:
        what = f"the kernel has {len(pixels) // PIXEL_BYTES} pixels, a slot holds {PROGRAM_PIXELS_LIMIT}"
        raise InputError(what, remedy="use fewer instructions, especially constant vectors")
    return pixels


def edit(kernel: EvolvedKernel, *, slot: int) -> Program:
    """The edit that writes the kernel to a slot, 0 to 7. Raises InputError as `program`."""
    return Program(f"evolved.{_checked(slot)}", program(kernel))


def calls(kernel: EvolvedKernel, vectors: NDArray[np.float32], *, slot: int) -> Iterator[bytes]:
    """The programs that apply the kernel in `slot` to every vector f32 (n, dim), within a machine's limits.

    Their concatenated outputs are the results as little-endian f32 (n, dim). Raises InputError as `program`, and for
    vectors of another length.
    """
    own = len(program(kernel)) // PIXEL_BYTES
    if vectors.ndim != 2 or vectors.shape[1] != kernel.dim:
        what = f"expected vectors of {kernel.dim} elements, got an array of shape {vectors.shape}"
        raise InputError(what, remedy="give one vector a row")
    # Four bytes an element, and in the worst case a LIT before every pixel of data.
    most = 4 * kernel.dim // PIXEL_BYTES * 2 + 2 + own
    rows_at_once = _PIXELS_AT_ONCE // most
    call = f"INPUT f32\nCALL evolved.{_checked(slot)}\n"
    for start in range(0, len(vectors), rows_at_once):
        rows = vectors[start : start + rows_at_once].astype("<f4")
        yield assemble("".join(f"bytes {row.tobytes().hex()}\n{call}" for row in rows))


def _checked(slot: int) -> int:
    if not 0 <= slot < SLOTS:
        raise InputError(f"expected a slot from 0 to {SLOTS - 1}, got {slot}")
    return slot


def _lines(instruction: Instruction) -> tuple[str, ...]:
    match instruction:
        case PushScalar(value):
            return _scalar(value)
        case PushVector(codes, step, offset):
            return (f"bytes {codes.hex()}", "INPUT bytes", *_scalar(step), "MUL", *_scalar(offset), "ADD")
        case Apply(operation):
            return (operation.upper(),)
        case Activate(function):
            return (f"ACT {function}",)
        case Normalise(norm):
            return (f"NORM {norm}",)
        case ReduceTo(reduce):
            return (f"REDUCE {reduce}",)


def _scalar(value: float) -> tuple[str, ...]:
    """A scalar has no instruction of its own: the vector of it and padding zeros is summed."""
    return (f"f32 {value!r}", "INPUT f32", "REDUCE sum")
