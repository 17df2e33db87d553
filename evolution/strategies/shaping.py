"""Fitness shaping: turns scores into the coefficients of noises. Pure; f64 throughout.

Shaped scores depend on the order or the spread of the scores, not on their unit. A single outlier does not decide a
move, and a step size has the same meaning for every fitness.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Float64Array: TypeAlias = NDArray[np.float64]
Shaping: TypeAlias = Literal["ranks", "signs", "standardised"]

SHAPINGS: tuple[Shaping, ...] = get_args(Shaping)


def centred_ranks(scores: Float64Array) -> Float64Array:
    """Ranks of scores (n,), spread evenly over -1/2..1/2; equal scores share their mean rank; 0 for a single score.

    Source: Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning (2017), 2.1.
    """
    if len(scores) < 2:
        return np.zeros(len(scores))
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2
    centred: Float64Array = ranks[places] / (len(scores) - 1) - 0.5
    return centred


def standardised(scores: Float64Array) -> Float64Array:
    """Scores (n,) minus their mean, divided by their standard deviation; zeros if all are equal."""
    largest = np.abs(scores).max(initial=0)
    if largest == 0:
        return np.zeros(len(scores))
    scaled = scores / largest  # so that no square overflows
    spread = scaled.std()
    return (scaled - scaled.mean()) / spread if spread > 0 else np.zeros(len(scores))


def pair_coefficients(plus: Float64Array, minus: Float64Array, shaping: Shaping) -> Float64Array:
    """The coefficient of each of n antithetic pairs: the shaped score with +noise minus that with -noise, (n,).

    `ranks` and `standardised` look at all 2n scores at once. `signs` keeps only which of the two was better, as
    signSGD does with gradients (Bernstein et al., 2018).
    """
    if shaping == "signs":
        return (plus > minus).astype(np.float64) - (plus < minus)
    shaped = (centred_ranks if shaping == "ranks" else standardised)(np.concatenate([plus, minus]))
    return shaped[: len(plus)] - shaped[len(plus) :]


def of_unit_length(coefficients: Float64Array) -> Float64Array:
    """Coefficients (n,) divided by their Euclidean length; zeros stay.

    A sum of independent noises with these coefficients is as large as one of them.
    """
    length = float(np.linalg.norm(coefficients))
    return coefficients / length if length > 0 else coefficients
