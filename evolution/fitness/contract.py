"""The contract of a fitness: the data that the search may see, and a score of its embeddings. Pure.

A `Fitness` turns texts into one number, higher being better, through any `Embed`: that of a shadow, a live machine or
a file. The search never gets the held-out part: `Dataset` keeps the two apart, and only the report on a finished run
uses both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]
"""Maps texts to embeddings f32 (n, dim), each of length 1; the same weights give the same bits on every machine."""


@dataclass(frozen=True)
class Pair:
    """A query and the document that answers it."""

    query: str
    document: str


@dataclass(frozen=True)
class SearchData:
    """The data of a search: `train` scores proposals, `calibration` judges moves, `watch` is for the live machine."""

    train: tuple[Pair, ...]
    calibration: tuple[Pair, ...]
    watch: tuple[Pair, ...]


@dataclass(frozen=True)
class Dataset:
    """A whole data set: its source, the SHA-256 (hex) of its content, and its parts, which have no text in common."""

    source: str
    sha256: str
    search: SearchData
    held_out: tuple[Pair, ...]


@dataclass(frozen=True)
class Evaluation:
    """A score (finite, higher is better), and the items whose mean it is, in the order of the data."""

    score: float
    items: tuple[float, ...]


class Fitness(Protocol):
    """Scores embeddings. The same data and the same embeddings give the same score to the last bit."""

    def batch(self, number: int) -> tuple[Pair, ...]:
        """The data of generation `number`, on which all its proposals are scored."""

    def evaluate(self, embed: Embed, pairs: Sequence[Pair]) -> Evaluation:
        """The score of a model on some pairs. Raises what `embed` raises, InputError for fewer than two pairs."""

    @property
    def search(self) -> SearchData:
        """The data of the search."""
