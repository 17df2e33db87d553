"""Runs kernels in numpy, with the results of the running machine to the bit. Pure.

The instructions are specified in spec/pixels.md: sums run in sixteen lanes (element k in lane k mod 16, fused
multiply-adds), which a fixed tree adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from evolution.kernels import functions
from evolution.kernels.functions import Float32Array, mul_add
from evolution.kernels.genome import (
    Act,
    Activate,
    Apply,
    EvolvedKernel,
    Instruction,
    Norm,
    Normalise,
    PushScalar,
    PushVector,
    Reduce,
    ReduceTo,
    check,
)
from vboot.errors import InputError

LANES = 16
LAYER_EPSILON = 1e-12
RMS_EPSILON = 1e-6
_CHUNK = 1 << 14
"""Elements at a time: the f64 intermediates of a fused multiply-add then fit the second-level cache."""

_ACTS: Mapping[Act, Callable[[Float32Array], Float32Array]] = {
    "relu": functions.relu,
    "gelu": functions.gelu,
    "silu": functions.silu,
    "tanh": functions.tanh,
    "sigmoid": functions.sigmoid,
}


def run(kernel: EvolvedKernel, vectors: Float32Array) -> Float32Array:
    """Apply the kernel to every row: f32 (n, dim) to f32 (n, dim).

    Raises InputError for an invalid kernel, for vectors of another length, and if a value of the result is not finite,
    in which case the pixel machine faults.
    """
    check(kernel)
    if vectors.ndim != 2 or vectors.shape[1] != kernel.dim or vectors.dtype != np.float32:
        what = f"expected f32 vectors of {kernel.dim} elements, got {vectors.dtype} {vectors.shape}"
        raise InputError(what, remedy="give one f32 vector a row")
    results = np.empty_like(vectors)
    rows = max(1, _CHUNK // kernel.dim)
    for start in range(0, len(vectors), rows):
        results[start : start + rows] = _run(kernel, vectors[start : start + rows])
    finite = np.isfinite(results).all(axis=1)
    if not finite.all():
        raise InputError(f"the kernel's result of row {int(np.argmin(finite))} is not finite")
    return results


def _run(kernel: EvolvedKernel, vectors: Float32Array) -> Float32Array:
    """The result; a single row if it is the same for all."""
    # A value is (n, dim), or (n, 1) for a scalar of each row; a constant has one row, which broadcasts.
    stack: list[Float32Array] = [vectors]
    with np.errstate(all="ignore"):
        for instruction in kernel.instructions:
            _execute(instruction, stack)
    return stack.pop()


def _execute(instruction: Instruction, stack: list[Float32Array]) -> None:
    match instruction:
        case PushScalar(value):
            # The machine computes a scalar as a sum with zeros, which turns -0 into 0.
            stack.append(np.full((1, 1), value, np.float32) + np.float32(0))
        case PushVector():
            stack.append(instruction.values()[None])
        case Apply("add"):
            top = stack.pop()
            stack[-1] = stack[-1] + top
        case Apply("mul"):
            top = stack.pop()
            stack[-1] = stack[-1] * top
        case Apply("dup"):
            stack.append(stack[-1])
        case Apply("drop"):
            stack.pop()
        case Apply("swap"):
            stack[-1], stack[-2] = stack[-2], stack[-1]
        case Activate(function):
            stack[-1] = _ACTS[function](stack[-1])
        case Normalise(norm):
            stack[-1] = _normalised(stack[-1], norm)
        case ReduceTo(reduce):
            stack[-1] = _reduced(stack[-1], reduce)


def _normalised(x: Float32Array, norm: Norm) -> Float32Array:
    columns = np.float32(x.shape[1])
    match norm:
        case "layer":
            centred = x - _sum(x) / columns
            return _divided(centred, np.sqrt(_squares(centred) / columns + np.float32(LAYER_EPSILON)))
        case "rms":
            return _divided(x, np.sqrt(_squares(x) / columns + np.float32(RMS_EPSILON)))
        case "l2":
            length: Float32Array = np.sqrt(_squares(x))
            return np.where(length != 0, _divided(x, length), x)
        case "softmax":
            powers = functions.exp(x - _largest(x))
            return _divided(powers, _sum(powers))


def _reduced(x: Float32Array, reduce: Reduce) -> Float32Array:
    match reduce:
        case "sum":
            return _sum(x)
        case "mean":
            return _sum(x) / np.float32(x.shape[1])
        case "max":
            return _largest(x)


def _divided(x: Float32Array, divisor: Float32Array) -> Float32Array:
    """x / divisor; an infinite divisor is an overflow, so it gives NaN instead of 0."""
    sound: Float32Array = np.where(np.isinf(divisor), np.float32(np.nan), divisor)
    return x / sound


def _largest(x: Float32Array) -> Float32Array:
    """The largest element of each row, (n, 1); NaN if the row has one."""
    return np.take_along_axis(x, x.argmax(axis=1)[:, None], axis=1)


def _sum(x: Float32Array) -> Float32Array:
    """The sum of each row, (n, 1)."""
    lanes = np.zeros((len(x), LANES), np.float32)
    for start in range(0, x.shape[1], LANES):
        part = x[:, start : start + LANES]
        lanes[:, : part.shape[1]] += part
    return _joined(lanes)


def _squares(x: Float32Array) -> Float32Array:
    """The sum of the squares of each row, (n, 1)."""
    lanes = np.zeros((len(x), LANES), np.float32)
    for start in range(0, x.shape[1], LANES):
        part = x[:, start : start + LANES]
        width = part.shape[1]
        lanes[:, :width] = mul_add(part, part, lanes[:, :width])
    return _joined(lanes)


def _joined(lanes: Float32Array) -> Float32Array:
    """The sum of the lanes: the upper half is added to the lower, four times."""
    half = LANES // 2
    while half:
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
        half //= 2
    return lanes
