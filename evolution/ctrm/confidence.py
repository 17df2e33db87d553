"""The probability, given a shadow's measurements, that a candidate is not degraded. Pure.

    confidence = P(mean difference > -margin | items), margin = tolerance * |score before|

The items are paired: the same data before and after. With a flat prior this probability is Student's t distribution
function, with n - 1 degrees of freedom, of t = (mean(d) + margin) / (sd(d) / sqrt(n)): the test of non-inferiority.
"""

from __future__ import annotations

import math
from statistics import fmean

from evolution.fitness.contract import Evaluation
from vboot.errors import InputError

_TINY = 1e-300
_PRECISION = 1e-14
_MOST_STEPS = 10_000


def probability_not_degraded(before: Evaluation, after: Evaluation, *, tolerance: float) -> float:
    """The probability, 0 to 1, that `after` is worse than `before` by less than `tolerance` (relative).

    Raises InputError for fewer than two items, or different numbers of items.
    """
    count = len(before.items)
    if count != len(after.items) or count < 2:
        what = f"expected the same two or more items before and after, got {count} and {len(after.items)}"
        raise InputError(what, remedy="evaluate both on the same pairs")
    differences = [new - old for new, old in zip(after.items, before.items, strict=True)]
    mean = fmean(differences)
    advantage = mean + tolerance * abs(before.score)
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (count - 1)
    if variance == 0:
        return 1.0 if advantage > 0 else 0.0
    return student_t_cdf(advantage / math.sqrt(variance / count), count - 1)


def student_t_cdf(t: float, degrees: int) -> float:
    """P(T <= t) of Student's distribution: 1 - I_x(v/2, 1/2) / 2 for t >= 0, x = v / (v + t^2) (DLMF 8.17)."""
    tail = regularised_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t >= 0 else tail


def regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) for 0 <= x <= 1 and a, b > 0, by its continued fraction where that converges fast (DLMF 8.17.22)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - regularised_beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / a / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) with the d of DLMF 8.17.23, by Lentz's method."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1, _MOST_STEPS):
        m = step // 2
        if step % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (_nonzero(1 + d * denominator))
        numerator = _nonzero(1 + d / numerator)
        factor = numerator * denominator
        value *= factor
        if abs(factor - 1) < _PRECISION:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
