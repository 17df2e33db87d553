"""The best monotone map through recorded (confidence, outcome) pairs: isotonic regression. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MonotoneMap:
    """Linear interpolation between points of increasing `places` and non-decreasing `levels`; constant outside."""

    places: tuple[float, ...]
    levels: tuple[float, ...]

    def __call__(self, place: float) -> float:
        """The level at a place."""
        right = bisect_left(self.places, place)
        if right == 0:
            return self.levels[0]
        if right == len(self.places):
            return self.levels[-1]
        left = right - 1
        share = (place - self.places[left]) / (self.places[right] - self.places[left])
        return self.levels[left] + share * (self.levels[right] - self.levels[left])


def fit(pairs: Sequence[tuple[float, bool]]) -> MonotoneMap:
    """The map from confidence (0 to 1) to the rate of good outcomes, by pooling adjacent violators.

    One artificial good outcome at confidence 0 and one bad at 1 are added as a prior, so n good outcomes without a bad
    one give a rate of n / (n + 1), never 1 (Laplace's rule of succession is (n + 1) / (n + 2)).
    Each pool stands at the mean confidence of its pairs.
    """
    goods_at: dict[float, list[bool]] = {}
    for confidence, good in sorted([*pairs, (0.0, True), (1.0, False)]):
        goods_at.setdefault(confidence, []).append(good)
    pools: list[_Pool] = []
    for confidence, goods in goods_at.items():
        pools.append(_Pool(len(goods), confidence * len(goods), sum(goods)))
        while len(pools) > 1 and pools[-2].rate >= pools[-1].rate:
            last, before = pools.pop(), pools.pop()
            pools.append(_Pool(before.count + last.count, before.places + last.places, before.goods + last.goods))
    return MonotoneMap(tuple(pool.place for pool in pools), tuple(pool.rate for pool in pools))


@dataclass(frozen=True)
class _Pool:
    """A pool of pairs: their number, the sum of their confidences, the number of good ones."""

    count: int
    places: float
    goods: int

    @property
    def rate(self) -> float:
        return self.goods / self.count

    @property
    def place(self) -> float:
        return self.places / self.count
