"""The reliability of confidences: rates by bin with intervals, the Brier score, and a reliability diagram. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from xml.sax.saxutils import escape

from vboot.errors import InputError

Outcomes = Sequence[tuple[float, bool]]
"""Confidences (0 to 1) that something is good, and whether it was."""

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Bin:
    """The outcomes with a confidence in [`low`, `high`), the last bin including 1.

    count: their number. predicted: the mean confidence. observed: the rate of good ones. interval: its Wilson interval
    of 95 %. Without outcomes the means are NaN and the interval is 0 to 1.
    """

    low: float
    high: float
    count: int
    predicted: float
    observed: float
    interval: tuple[float, float]


def reliability(outcomes: Outcomes, bins: int = 10) -> tuple[Bin, ...]:
    """Bins of equal width over 0 to 1. Raises InputError for fewer than one."""
    if bins < 1:
        raise InputError(f"expected a positive number of bins, got {bins}", remedy="ask for one or more")
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, good in outcomes:
        held[min(int(confidence * bins), bins - 1)].append((confidence, good))
    return tuple(_bin(number / bins, (number + 1) / bins, some) for number, some in enumerate(held))


def wilson_interval(good: int, count: int, z: float = _Z95) -> tuple[float, float]:
    """The confidence interval of a rate of which `good` of `count` were seen (Wilson 1927); 0 to 1 for a count of 0."""
    if not count:
        return 0.0, 1.0
    rate = good / count
    spread = 1 + z * z / count
    middle = (rate + z * z / (2 * count)) / spread
    half = z / spread * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def brier_score(outcomes: Outcomes) -> float:
    """The mean of (confidence - outcome)^2: 0 is perfect, always 0.5 gives 0.25. Raises InputError without outcomes."""
    if not outcomes:
        raise InputError("expected at least one outcome, got none", remedy="record outcomes first")
    return fmean((confidence - good) ** 2 for confidence, good in outcomes)


def _bin(low: float, high: float, some: Outcomes) -> Bin:
    if not some:
        return Bin(low, high, 0, math.nan, math.nan, (0.0, 1.0))
    good = sum(outcome for _, outcome in some)
    predicted = fmean(confidence for confidence, _ in some)
    return Bin(low, high, len(some), predicted, good / len(some), wilson_interval(good, len(some)))


_SIZE, _MARGIN = 320, 46
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
"""Three colours of Okabe and Ito, distinguishable with any colour vision."""


def reliability_svg(title: str, series: Sequence[tuple[str, Sequence[Bin]]]) -> str:
    """The reliability diagram of up to three named series as an SVG document: observed rate over mean confidence.

    Points grow with their counts, lines are the Wilson intervals, and the diagonal is perfect. Raises InputError for
    more series.
    """
    if len(series) > len(_COLOURS):
        raise InputError(f"expected at most {len(_COLOURS)} series, got {len(series)}", remedy="draw fewer")
    width, height = _SIZE + 2 * _MARGIN, _SIZE + 2 * _MARGIN + 18 * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2:g}" y="24" text-anchor="middle" font-size="14">{escape(title)}</text>',
        *_axes(),
    ]
    for number, (name, bins) in enumerate(series):
        colour, y = _COLOURS[number], _SIZE + 2 * _MARGIN + 18 * number + 6
        parts.append(f'<circle cx="{_MARGIN + 6}" cy="{y - 4}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{_MARGIN + 18}" y="{y}">{escape(name)}</text>')
        parts += [_point(bin_, colour, offset=3 * number) for bin_ in bins if bin_.count]
    return "\n".join([*parts, "</svg>", ""])


def _axes() -> list[str]:
    left, right, top, bottom = _x(0), _x(1), _y(1), _y(0)
    parts = [f'<path d="M{left} {bottom}L{right} {top}" stroke="#999" stroke-dasharray="4 4"/>']
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(f'<path d="M{_x(tick)} {top}V{bottom}M{left} {_y(tick)}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{_y(tick) + 4:g}" text-anchor="end">{tick:g}</text>')
    middle = _MARGIN + _SIZE / 2
    parts.append(f'<text x="{middle:g}" y="{bottom + 32}" text-anchor="middle">confidence</text>')
    turn = f'transform="rotate(-90 14 {middle:g})"'
    parts.append(f'<text x="14" y="{middle:g}" text-anchor="middle" {turn}>rate not degraded</text>')
    return parts


def _point(bin_: Bin, colour: str, *, offset: int) -> str:
    """A bin's point and interval, moved sideways a little so that the series do not cover each other."""
    x, (low, high) = _x(bin_.predicted) + offset, bin_.interval
    line = f'<path d="M{x:g} {_y(low)}V{_y(high)}" stroke="{colour}"/>'
    radius = 2 + math.sqrt(bin_.count) / 2
    return line + f'<circle cx="{x:g}" cy="{_y(bin_.observed)}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.8"/>'


def _x(share: float) -> float:
    return round(_MARGIN + share * _SIZE, 1)


def _y(share: float) -> float:
    return round(_MARGIN + (1 - share) * _SIZE, 1)
