"""Statistics of samples: medians, ratios and growth. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Median, smallest and largest of `count` samples, in the samples' unit."""

    median: float
    min: float
    max: float
    count: int


def summarise(samples: Sequence[float]) -> Summary:
    """Summarise samples. Raises ValueError when there is none."""
    return Summary(statistics.median(samples), min(samples), max(samples), len(samples))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of numerator / denominator over samples that were taken side by side.

    Load that comes and goes hits both samples of a pair, so it cancels here and would not in a ratio of medians.
    Raises ValueError when there is no pair, the lengths differ or a denominator is not positive.
    """
    if any(value <= 0 for value in denominators):
        raise ValueError("a ratio needs positive denominators")
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that a share of all does not exceed (nearest rank). Raises IndexError when there is none."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def growth_exponent(small: tuple[float, float], large: tuple[float, float]) -> float:
    """The k of cost = c * size ** k through two points (size, cost): 1 is linear, 2 quadratic.

    Raises ValueError when a size or a cost is not positive, or the sizes are the same.
    """
    (size, cost), (more_size, more_cost) = small, large
    if min(size, cost, more_size, more_cost) <= 0 or size == more_size:
        raise ValueError(f"growth cannot be computed from {small} and {large}")
    return math.log(more_cost / cost) / math.log(more_size / size)
