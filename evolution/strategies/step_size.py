"""Adaptation of the noise size: factors on a tier's sigma (for steps of codes, on its density). Pure.

All factors are bounded: noise that is too small for the storage type changes nothing, fails, and would shrink forever.
"""

from __future__ import annotations

from collections.abc import Sequence

SPREAD_LIMITS = (2.0**-6, 2.0**6)
"""Least and greatest factor."""


def one_fifth(spread: float, success: bool) -> float:
    """The 1/5 success rule: doubled on success, otherwise times 0.84; balanced at one success in five (0.84^4 is 1/2).

    Source: Rechenberg, Evolutionsstrategie (1973); in this form Kern et al. (2004).
    """
    return clamp(spread * (2.0 if success else 0.84))


def after_generation(spread: float, scores: Sequence[float | None]) -> float:
    """Halved when no proposal has a score, as the noise may have been too large; otherwise slowly back to 1."""
    if all(score is None for score in scores):
        return clamp(spread / 2)
    return min(1.0, spread * 1.1)


def clamp(spread: float) -> float:
    """The nearest factor within the limits."""
    return min(max(spread, SPREAD_LIMITS[0]), SPREAD_LIMITS[1])
