"""Random choices of a search: a separate stream for every decision, from a seed and a name alone. Pure.

The words are those of `vboot.weights.noise`, raw Philox, so they do not depend on numpy's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vboot.weights import noise

T = TypeVar("T")

_AT_ONCE = 64


class Draws:
    """The stream of `seed` (16 hex digits) for `name`; every object starts at its beginning."""

    def __init__(self, seed: str, name: str) -> None:
        self._key = noise.key(seed, name)
        self._at = 0
        self._ready: list[int] = []

    def below(self, count: int) -> int:
        """An integer from 0 to `count` - 1; the bias of the remainder is below `count` / 2^64."""
        if not self._ready:
            self._ready = self.words(_AT_ONCE)[::-1].tolist()
        return self._ready.pop() % count

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def uniform(self) -> float:
        """A number from 0 (included) to 1 (excluded)."""
        return self.below(1 << 53) / (1 << 53)

    def normal(self) -> float:
        """A number of mean 0 and variance 1, in steps of a sixth: a sum of 144 fair coin flips."""
        return sum(self.below(1 << 48).bit_count() - 24 for _ in range(3)) / 6

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next words of the stream, u64 (count,)."""
        drawn = noise.words(self._key, self._at, count)
        self._at += count
        return drawn
