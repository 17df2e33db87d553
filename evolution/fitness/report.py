"""The report on a finished run: retrieval metrics on held-out pairs, with confidence intervals. Pure.

MRR@10, recall@k and nDCG@10 as in C. D. Manning et al., "Introduction to Information Retrieval", chapter 8, for one
right document a query. The intervals are percentile bootstraps, B. Efron and R. Tibshirani, "An Introduction to the
Bootstrap", chapter 13; before and after are resampled together, as the queries are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.fitness.contract import Embed, Pair
from evolution.fitness.contrastive import candidates, info_nce, own_similarities, similarities
from evolution.fitness.retrieval import BATCH_SIZE, DOCUMENT_CHARACTERS, TEMPERATURE, check_settings, embedded
from vboot.errors import InputError

METRICS = ("mrr@10", "recall@1", "recall@10", "ndcg@10", "loss")
"""All but the loss are from 0 to 1, higher being better; the loss is in nats, lower being better."""
RESAMPLES = 10_000
CONFIDENCE = 0.95

_DEPTH = 10
_RESAMPLED_AT_ONCE = 500
"""Bounds the memory: 500 resamples of 1024 queries take some 10 MB."""


@dataclass(frozen=True)
class Report:
    """For each query the rank of its document among all, from 1, and its InfoNCE loss among the documents of its block.

    At equal similarity other documents rank first, so a model that gives all texts one embedding finds none.
    """

    ranks: tuple[int, ...]
    losses: tuple[float, ...]

    def values(self, metric: str) -> NDArray[np.float64]:
        """One of `METRICS` for each query, f64 (queries,); the metric is their mean."""
        ranks = np.array(self.ranks, dtype=np.float64)
        found = np.less_equal(ranks, _DEPTH).astype(np.float64)
        match metric:
            case "mrr@10":
                return found / ranks
            case "recall@1":
                return np.equal(ranks, 1).astype(np.float64)
            case "recall@10":
                return found
            case "ndcg@10":
                return found / np.log2(1.0 + ranks)
            case "loss":
                return np.array(self.losses)
        raise InputError(f"unknown metric {metric!r}", remedy=f"use one of {', '.join(METRICS)}")

    def mean(self, metric: str) -> float:
        """The mean of one of `METRICS`."""
        values = self.values(metric).tolist()
        return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A metric before and after a run, and the difference (after - before)."""

    before: Interval
    after: Interval
    difference: Interval


def retrieval_report(
    embed: Embed,
    pairs: Sequence[Pair],
    *,
    temperature: float = TEMPERATURE,
    document_chars: int = DOCUMENT_CHARACTERS,
    block: int = BATCH_SIZE,
) -> Report:
    """Rank each query's document among those of all pairs, and compute its loss within its block of pairs.

    The loss is that of a search with batches of `block` pairs. Blocks are in the order of the pairs; the last one is
    filled up with the pairs before it. Raises what `embed` raises, InputError as `RetrievalFitness.evaluate` does.
    """
    check_settings(batch_size=block, temperature=temperature, document_chars=document_chars)
    shown, queries, documents = embedded(embed, pairs, document_chars=document_chars)
    first, wrong = candidates(shown)
    own = own_similarities(queries, documents)
    ranks: list[int] = []
    losses: list[float] = []
    for start in range(0, len(shown), block):
        end = min(start + block, len(shown))
        ahead = (similarities(queries[start:end], documents[first]) >= own[start:end, None]) & wrong[start:end]
        ranks += (1 + ahead.sum(axis=1)).tolist()
        filled = slice(max(0, end - block), end)
        of_block = info_nce(shown[filled], queries[filled], documents[filled], temperature=temperature)
        losses += of_block[start - end :]
    return Report(tuple(ranks), tuple(losses))


def intervals(report: Report, *, seed: int = 0) -> Mapping[str, Interval]:
    """Each of `METRICS` with its interval."""
    return {metric: compared.after for metric, compared in compare(report, report, seed=seed).items()}


def compare(before: Report, after: Report, *, seed: int = 0) -> Mapping[str, Comparison]:
    """Each of `METRICS` before and after, on the same pairs. `seed` (0 to 2^64 - 1) draws the resamples.

    Raises InputError for reports of different numbers of queries.
    """
    if len(before.ranks) != len(after.ranks):
        what = f"expected two reports on the same pairs, got {len(before.ranks)} and {len(after.ranks)} pairs"
        raise InputError(what, remedy="make both on the same pairs")
    rows = [report.values(metric) for metric in METRICS for report in (before, after)]
    means = _resampled_means(np.stack(rows, axis=1), seed=seed)
    return {
        metric: Comparison(
            _interval(before.mean(metric), means[:, 2 * at]),
            _interval(after.mean(metric), means[:, 2 * at + 1]),
            _interval(after.mean(metric) - before.mean(metric), means[:, 2 * at + 1] - means[:, 2 * at]),
        )
        for at, metric in enumerate(METRICS)
    }


def _resampled_means(values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Means of the columns over queries drawn with replacement: (queries, columns) to (RESAMPLES, columns)."""
    count = len(values)
    draw = np.random.Generator(np.random.Philox(key=seed))
    means = []
    for _ in range(RESAMPLES // _RESAMPLED_AT_ONCE):
        drawn = draw.integers(0, count, size=(_RESAMPLED_AT_ONCE, count))
        drawn += np.arange(_RESAMPLED_AT_ONCE)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=_RESAMPLED_AT_ONCE * count)
        means.append(times.reshape(_RESAMPLED_AT_ONCE, count) @ values / count)
    return np.concatenate(means)


def _interval(value: float, means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
