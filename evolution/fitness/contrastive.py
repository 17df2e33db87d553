"""Exact similarities of queries and documents, and the InfoNCE loss. Pure.

InfoNCE: A. van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4; here
with cosine over a temperature, as in sentence encoders. Every result has the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolution.fitness import portable_math
from evolution.fitness.contract import Pair
from vboot.errors import InputError

Quantised: TypeAlias = NDArray[np.float64]
"""Embeddings (n, dim) as whole numbers, in units of 2^-20."""

_SCALE = 2.0**20
_SQUARED_UNIT = 2.0**-40
_LENGTH_TOLERANCE = 1e-3


def quantise(embeddings: NDArray[np.float32]) -> Quantised:
    """Embeddings of length 1, rounded to multiples of 2^-20.

    Raises InputError for embeddings that are not finite or not of length 1.
    """
    wide = embeddings.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lengths = np.sqrt((wide * wide).sum(axis=1))
    if not (np.abs(lengths - 1.0) <= _LENGTH_TOLERANCE).all():
        raise InputError("expected embeddings of length 1", remedy="use a model that normalises its embeddings")
    whole: Quantised = np.rint(wide * _SCALE)
    return whole


def similarities(queries: Quantised, documents: Quantised) -> NDArray[np.float64]:
    """The cosines f64 (queries, documents) of quantised embeddings, multiples of 2^-40.

    Exact in any order of addition: sums of |products| are below 2^41, and whole numbers are exact in f64 up to 2^53.
    `@` is not used, because the threads of numpy's BLAS keep spinning after a product and take processor time from the
    runtime that computes the next embeddings.
    """
    product: NDArray[np.float64] = np.einsum("ik,jk->ij", queries, documents)
    return product * _SQUARED_UNIT


def own_similarities(queries: Quantised, documents: Quantised) -> NDArray[np.float64]:
    """The cosine of each query with its own document, f64 (pairs,), as exact as `similarities`."""
    products: NDArray[np.float64] = (queries * documents).sum(axis=1)
    return products * _SQUARED_UNIT


def candidates(pairs: Sequence[Pair]) -> tuple[list[int], NDArray[np.bool_]]:
    """The index of the first pair with each distinct document, and whether the document is wrong for each query.

    The second is of shape (pairs, documents). A document is right for every query that is paired with it anywhere, so
    right answers never count against each other.
    """
    column: dict[str, int] = {}
    first: list[int] = []
    answers: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        if pair.document not in column:
            column[pair.document] = len(first)
            first.append(number)
        answers.setdefault(pair.query, []).append(column[pair.document])
    wrong = np.ones((len(pairs), len(first)), dtype=np.bool_)
    for row, pair in enumerate(pairs):
        wrong[row, answers[pair.query]] = False
    return first, wrong


def info_nce(pairs: Sequence[Pair], queries: Quantised, documents: Quantised, *, temperature: float) -> list[float]:
    """The loss of each pair's query in nats: -ln(e^(s/t) / (e^(s/t) + sum of e^(s'/t))), 0 or more.

    `queries` and `documents` (pairs, dim) are the embeddings; s is the cosine of a query with its own document, s' with
    each distinct wrong one of these pairs, t the temperature.
    """
    first, wrong = candidates(pairs)
    logits = np.where(wrong, similarities(queries, documents[first]) / temperature, -np.inf)
    targets = own_similarities(queries, documents) / temperature
    highest = np.maximum(logits.max(axis=1), targets)
    powers = portable_math.exp(logits - highest[:, None]).tolist()
    own_powers = portable_math.exp(targets - highest).tolist()
    rows = zip(own_powers, powers, highest.tolist(), targets.tolist(), strict=True)
    # fsum rounds once, so the order of addition does not matter.
    return [portable_math.ln(math.fsum([mine, *others])) + (top - target) for mine, others, top, target in rows]
