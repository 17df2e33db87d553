"""The report on a finished run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from evolution.fitness.contract import Pair, SearchData
from evolution.fitness.report import METRICS, Report, compare, intervals, retrieval_report
from evolution.fitness.retrieval import RetrievalFitness
from tests.unit.test_fitness_retrieval import PAIRS, embed
from vboot.errors import InputError


def test_the_metrics_are_those_of_the_textbook() -> None:
    report = Report(ranks=(1, 2, 10, 11), losses=(0.5, 1.0, 2.0, 4.5))
    assert report.mean("mrr@10") == pytest.approx((1 + 1 / 2 + 1 / 10 + 0) / 4)
    assert report.mean("recall@1") == 1 / 4
    assert report.mean("recall@10") == 3 / 4
    assert report.mean("ndcg@10") == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)
    assert report.mean("loss") == 2.0
    with pytest.raises(InputError, match="unknown metric 'mrr'"):
        report.values("mrr")


def test_ranks_are_among_all_documents_and_losses_among_those_of_the_block() -> None:
    report = retrieval_report(embed, PAIRS, block=64)
    cosines = embed([p.query for p in PAIRS]).astype(np.float64) @ embed([p.document for p in PAIRS]).T
    expected = 1 + (cosines > cosines.diagonal()[:, None]).sum(axis=1)
    assert list(report.ranks) == expected.tolist()
    assert max(report.ranks) > 1
    fitness = RetrievalFitness(SearchData(PAIRS, PAIRS, PAIRS), seed=0)
    for start in (0, 64, 128, 192):
        items = fitness.evaluate(embed, PAIRS[start : start + 64]).items
        assert report.losses[start : start + 64] == tuple(-item for item in items)
    last = fitness.evaluate(embed, PAIRS[300 - 64 :]).items
    assert report.losses[256:] == tuple(-item for item in last[-44:])


def test_fewer_pairs_than_a_block_are_one_block() -> None:
    report = retrieval_report(embed, PAIRS[:10])
    assert len(report.ranks) == len(report.losses) == 10


def test_a_model_to_which_all_texts_are_the_same_finds_nothing() -> None:
    def same(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(embed(["x"]), (len(texts), 1))

    assert set(retrieval_report(same, PAIRS[:100]).ranks) == {100}


def test_a_perfect_model_finds_everything() -> None:
    pairs = [Pair(f"{n}", f"{n}") for n in range(100)]
    report = retrieval_report(embed, pairs)
    assert set(report.ranks) == {1}
    assert all(interval.low == interval.high for name, interval in intervals(report).items() if name != "loss")


def test_a_document_of_several_queries_is_one_candidate() -> None:
    crowd = [Pair(f"asks {n}", PAIRS[0].document) for n in range(50)]
    alone = retrieval_report(embed, [*PAIRS[:50], crowd[0]])
    assert retrieval_report(embed, [*PAIRS[:50], *crowd]).ranks[:50] == alone.ranks[:50]


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    draw = np.random.default_rng(3)
    losses = draw.exponential(2.0, 1000)
    report = Report(tuple(draw.integers(1, 20, 1000).tolist()), tuple(losses.tolist()))
    interval = intervals(report)["loss"]
    half = 1.96 * losses.std() / math.sqrt(1000)
    assert interval.value == pytest.approx(losses.mean())
    assert (interval.low, interval.high) == pytest.approx((losses.mean() - half, losses.mean() + half), abs=half / 10)


def test_before_and_after_are_compared_query_by_query() -> None:
    draw = np.random.default_rng(4)
    losses = draw.exponential(2.0, 500)
    ranks = tuple(draw.integers(1, 20, 500).tolist())
    before, after = Report(ranks, tuple(losses)), Report(ranks, tuple(losses - 0.01 - 0.001 * draw.random(500)))
    loss = compare(before, after)["loss"]
    assert loss.before.high > loss.after.value > loss.before.low  # each alone says nothing
    assert -0.0110 < loss.difference.low < loss.difference.value < loss.difference.high < -0.0100
    unchanged = compare(before, after)["mrr@10"]
    assert (unchanged.difference.low, unchanged.difference.high) == (0.0, 0.0)
    assert unchanged.before == unchanged.after


def test_the_same_seed_draws_the_same_resamples() -> None:
    report = retrieval_report(embed, PAIRS[:100])
    assert intervals(report, seed=5) == intervals(report, seed=5)
    assert intervals(report, seed=5) != intervals(report, seed=6)
    assert set(intervals(report)) == set(METRICS)


def test_what_cannot_be_reported_on_or_compared_is_refused() -> None:
    with pytest.raises(InputError, match="two or more"):
        retrieval_report(embed, PAIRS[:1])
    with pytest.raises(InputError, match="expected a temperature"):
        retrieval_report(embed, PAIRS[:2], temperature=0.0)
    with pytest.raises(InputError, match="expected two reports on the same pairs, got 1 and 2"):
        compare(Report((1,), (0.0,)), Report((1, 2), (0.0, 0.0)))
