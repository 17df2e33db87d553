"""What a fitness is: data that the search may see, and a score of embeddings of it. Pure.

A `Fitness` turns texts into one number, higher being better, through any `Embed`: a shadow's, a live machine's, a
file's. The data that it searches with never holds the held-out part: `Dataset` keeps the two apart, and only what
reports on a finished run is given the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to their embeddings f32 (n, dim), each of length 1, the same for the same weights on every machine."""


@dataclass(frozen=True)
class Pair:
    """A query and the document that answers it."""

    query: str
    document: str


@dataclass(frozen=True)
class SearchData:
    """What a search may see: `train` scores proposals, `calibration` judges moves, `watch` is looked at live."""

    train: tuple[Pair, ...]
    calibration: tuple[Pair, ...]
    watch: tuple[Pair, ...]


@dataclass(frozen=True)
class Dataset:
    """All of a data set: where it came from, the SHA-256 (hex) of its content, and its parts, which share no text."""

    source: str
    sha256: str
    search: SearchData
    held_out: tuple[Pair, ...]


@dataclass(frozen=True)
class Evaluation:
    """A score (higher is better, finite), and the items it is the mean of, in the order of the data."""

    score: float
    items: tuple[float, ...]


class Fitness(Protocol):
    """Scores embeddings. The same data and the same embeddings give the same score to the last bit."""

    def batch(self, number: int) -> tuple[Pair, ...]:
        """The data of generation `number`: every proposal of it is scored on these."""

    def evaluate(self, embed: Embed, pairs: Sequence[Pair]) -> Evaluation:
        """The score of a model on some pairs. Raises what `embed` raises, InputError for fewer than two pairs."""

    @property
    def search(self) -> SearchData:
        """The data that it was made for."""
