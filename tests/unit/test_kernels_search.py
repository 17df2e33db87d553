"""The search for kernels: it finds what helps, and is the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evolution.fitness.contract import Pair
from evolution.kernels import reference, search, to_pixels
from evolution.kernels.constants import pool_of
from evolution.kernels.embeds import recorded, transformed
from evolution.kernels.genome import EvolvedKernel, Normalise
from evolution.kernels.search import KernelSearchPlan, Score
from evolution.kernels.variation import normalised, weighted_sum
from vboot.errors import InputError

DIM = 24
_PAIRS = 60


def _embeddings(seed: int) -> NDArray[np.float32]:
    """Queries, then their documents: each of its own, and what all have in common, which outweighs it."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(0, 2, DIM)
    topics = rng.normal(0, 0.3, (_PAIRS, DIM))
    vectors: NDArray[np.float64] = common + np.tile(topics, (2, 1)) + rng.normal(0, 0.15, (2 * _PAIRS, DIM))
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def _score_on(vectors: NDArray[np.float32]) -> Score:
    """Minus the mean loss of finding each query's document."""

    def score(kernel: EvolvedKernel) -> float:
        moved = reference.run(kernel, vectors).astype(np.float64)
        logits = moved[:_PAIRS] @ moved[_PAIRS:].T / 0.05
        logits -= logits.max(axis=1, keepdims=True)
        return float((logits.diagonal() - np.log(np.exp(logits).sum(axis=1))).mean())

    return score


SEEN = _embeddings(1)
PLAN = KernelSearchPlan(DIM, "00c0ffee00c0ffee", pool_of(SEEN, directions=2), survivors=6, children=16)


@pytest.fixture(scope="module")
def run() -> list[search.KernelSearchState]:
    states = [search.begin(PLAN, _score_on(SEEN))]
    for _ in range(12):
        states.append(search.step(states[-1], PLAN, _score_on(SEEN)))
    return states


def test_it_improves_retrieval_that_it_has_not_seen(run: list[search.KernelSearchState]) -> None:
    held_out = _score_on(_embeddings(2))
    best = run[-1].population[0]
    assert best.score > run[0].population[0].score
    plain, found = held_out(normalised(EvolvedKernel(DIM, ()))), held_out(best.kernel)
    centred = held_out(normalised(EvolvedKernel(DIM, weighted_sum(PLAN.pool[0], -1.0))))
    assert plain < centred
    assert found > plain + 0.8 * (centred - plain)


def test_every_survivor_is_a_kernel_that_a_slot_holds_and_scores_never_fall(
    run: list[search.KernelSearchState],
) -> None:
    for before, after in pairwise(run):
        assert after.generation == before.generation + 1
        assert after.population[0].score >= before.population[0].score
        assert before.evaluations < after.evaluations <= before.evaluations + PLAN.children
        scores = [one.score for one in after.population]
        assert scores == sorted(scores, reverse=True)
        assert len({one.kernel for one in after.population}) == len(scores) <= PLAN.survivors
    for one in run[-1].population:
        assert one.kernel.instructions[-1] == Normalise("l2")
        assert len(to_pixels.program(one.kernel)) == 3 * one.pixels
        assert one.score == _score_on(SEEN)(one.kernel)


def test_a_run_that_was_interrupted_ends_the_same(run: list[search.KernelSearchState]) -> None:
    state = search.load(search.dump(run[9]))
    assert state == run[9]
    for _ in range(3):
        state = search.load(search.dump(search.step(state, PLAN, _score_on(SEEN))))
    assert search.dump(state) == search.dump(run[12])
    other = search.step(run[9], replace(PLAN, seed="00c0ffee00c0ffef"), _score_on(SEEN))
    assert other != run[10]


def test_kernels_whose_results_are_not_finite_die(run: list[search.KernelSearchState]) -> None:
    plain = run[0].population[0].kernel

    def only_plain(kernel: EvolvedKernel) -> float:
        if kernel == plain:
            return 0.0
        raise InputError("not finite")

    after = search.step(search.begin(PLAN, only_plain), PLAN, only_plain)
    assert [one.kernel for one in after.population] == [plain]
    with pytest.raises(InputError, match="expected a finite number as the score"):
        search.begin(PLAN, lambda _kernel: float("nan"))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=3)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=2),
                st.dictionaries(
                    st.sampled_from(["generation", "evaluations", "population", "kernel", "score"]), inner, max_size=3
                ),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_are_a_state_or_refused(data: bytes) -> None:
    with pytest.raises(InputError) as refused:
        search.load(data)
    assert "\n" not in str(refused.value)


def test_a_fitness_sees_embeddings_through_a_kernel() -> None:
    pairs = [Pair("a query", "its document")]
    vectors = SEEN[:2]
    kernel = normalised(EvolvedKernel(DIM, weighted_sum(PLAN.pool[0], -1.0)))
    embed = transformed(kernel, recorded([pairs[0].query, pairs[0].document], vectors))
    assert np.array_equal(embed(["its document"]), reference.run(kernel, vectors[1:]))
    with pytest.raises(InputError, match="'another' has not been embedded"):
        embed(["another"])
    with pytest.raises(InputError, match="expected 1 vectors"):
        recorded(["a"], vectors)
