"""Curves as text: braille characters with two columns and four rows of dots each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_BLANK = 0x2800
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bit of each dot of a braille character, by column, from the lowest row up (Unicode, block U+2800)."""
_ACROSS, _UP = 2, 4


def braille_curve(values: Sequence[float], *, width: int, height: int) -> list[str]:
    """The curve of some values as `height` lines of `width` characters, from top to bottom.

    If there are more values than columns, each column shows the mean of its values. Values that are not finite leave a
    gap.
    """
    columns = _columns(values, width * _ACROSS)
    finite = [value for value in columns if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    cells = [[_BLANK] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(columns):
        if not math.isfinite(value):
            before = None
            continue
        at = _row(value, low, high, height * _UP)
        # A steep step is drawn as a vertical line, so that the curve stays connected.
        start = at if before is None else before + (at > before) - (at < before)
        for y in range(min(start, at), max(start, at) + 1):
            cells[height - 1 - y // _UP][x // _ACROSS] |= _DOTS[x % _ACROSS][y % _UP]
        before = at
    return ["".join(map(chr, line)) for line in cells]


def _row(value: float, low: float, high: float, rows: int) -> int:
    """The row of dots of a value, from the bottom; a constant curve is centred."""
    spread = high / 2 - low / 2  # halves, as the difference of huge numbers would overflow
    return rows // 2 if spread <= 0 else round((value / 2 - low / 2) / spread * (rows - 1))


def _columns(values: Sequence[float], count: int) -> list[float]:
    if len(values) <= count:
        return list(values)
    edges = [number * len(values) // count for number in range(count + 1)]
    return [_mean(values[start:end]) for start, end in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(value / len(finite) for value in finite) if finite else math.nan
