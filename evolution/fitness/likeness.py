"""Similarity of texts by the words they have in common, independent of any model. Pure.

The rarer a word, the greater its weight (inverse document frequency, Spärck Jones 1972). Texts are compared by the
cosine of the weights of their words (Salton and McGill 1983). Sums are of whole numbers, and division and square root
are correctly rounded, so the order is the same on every machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+")
_UNIT = 16
"""Weights are whole multiples of 1/16 bit."""


class Likeness:
    """An index of texts for search by similarity."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts. Time and memory are proportional to their number of words."""
        words = [sorted(set(_WORD.findall(text.lower()))) for text in texts]
        counts = Counter(word for found in words for word in found)
        # bit_length is an exact logarithm to base 2. Words of all texts, or of one text only, have no weight.
        self._weights = {
            word: ((len(texts) ** _UNIT) // (count**_UNIT)).bit_length()
            for word, count in counts.items()
            if 1 < count < len(texts)
        }
        self._words = [[word for word in found if word in self._weights] for found in words]
        holders: dict[str, list[int]] = {word: [] for word in self._weights}
        for number, found in enumerate(self._words):
            for word in found:
                holders[word].append(number)
        self._holders = {word: np.array(numbers, np.int64) for word, numbers in holders.items()}
        squares = [sum(self._weights[word] ** 2 for word in found) for found in self._words]
        self._lengths = np.array([math.sqrt(square) or 1.0 for square in squares])

    def ranked(self, number: int) -> NDArray[np.int64]:
        """The numbers of all other texts that share a word with text `number`, the most similar first."""
        shared = np.zeros(len(self._words), np.int64)
        for word in self._words[number]:
            shared[self._holders[word]] += self._weights[word] ** 2
        shared[number] = 0
        order = np.argsort(-(shared / self._lengths), kind="stable")
        found: NDArray[np.int64] = order[: int(np.count_nonzero(shared))]
        return found
