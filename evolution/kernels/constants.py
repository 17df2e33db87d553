"""Constant vectors for kernels, from embeddings: their mean and their principal directions. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evolution.kernels.genome import PushVector
from vboot.errors import InputError


def quantised(vector: ArrayLike) -> PushVector:
    """The vector (dim,) in 256 steps from its least to its greatest element. Raises InputError if it is not finite."""
    values = np.asarray(vector, np.float32).astype(np.float64)
    if not values.size or not np.isfinite(values).all():
        raise InputError("a constant vector of a kernel is empty or not finite", remedy="give finite f32 numbers")
    low = np.float32(values.min())
    step = np.float32((values.max() - float(low)) / 255)
    if step == 0:
        return PushVector(bytes(values.size), 0.0, float(low))
    codes = np.rint((values - float(low)) / float(step)).clip(0, 255).astype(np.uint8)
    return PushVector(codes.tobytes(), float(step), float(low))


def pool_of(embeddings: NDArray[np.float32], *, directions: int = 8) -> tuple[PushVector, ...]:
    """Constants from embeddings f32 (n, dim): their mean, their principal directions (unit vectors) by falling
    variance, and the reciprocals of their standard deviations, scaled to a mean of 1.

    Raises InputError for fewer than two embeddings, and for numbers that are not finite.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise InputError(
            f"embeddings of shape {embeddings.shape} have no principal directions", remedy="give two or more rows"
        )
    values = embeddings.astype(np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    _, axes = np.linalg.eigh(centred.T @ centred)
    principal = [_oriented(axis) for axis in axes.T[::-1][:directions]]
    deviations = centred.std(axis=0)
    inverse = 1 / np.maximum(deviations, deviations.max() * 1e-3 + np.finfo(np.float64).tiny)
    return tuple(quantised(vector) for vector in (mean, *principal, inverse / inverse.mean()))


def _oriented(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The axis with the sign that makes its largest element positive: the sign of an eigenvector is arbitrary."""
    return axis if axis[np.abs(axis).argmax()] > 0 else -axis
