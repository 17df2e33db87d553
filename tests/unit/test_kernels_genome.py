"""Kernels as data: what is one, its JSON, how mutation and crossover keep it one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.kernels import genome
from evolution.kernels.constants import pool_of, quantised
from evolution.kernels.draws import Draws
from evolution.kernels.genome import Activate, Apply, EvolvedKernel, Normalise, PushScalar, PushVector, ReduceTo
from evolution.kernels.variation import cross, mutate, normalised, projection, weighted_sum
from vboot.errors import InputError

DIM = 12
VECTOR = PushVector(bytes(range(DIM)), 0.5, -1.0)
POOL = (VECTOR, PushVector(bytes(DIM), 0.0, 2.0))
NAMED = {"apply": genome.OPERATIONS, "act": genome.ACTS, "norm": genome.NORMS, "reduce": genome.REDUCES}


def walk(seed: str, steps: int) -> EvolvedKernel:
    kernel = EvolvedKernel(DIM, ())
    for number in range(steps):
        kernel = mutate(kernel, POOL, Draws(seed, str(number)))
    return kernel


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_mutation_and_crossover_make_kernels_of_kernels(first: int, second: int) -> None:
    a, b = walk(f"{first:016x}", 12), walk(f"{second:016x}", 12)
    child = normalised(cross(a, b, Draws(f"{first:016x}", "cross")))
    for kernel in (a, b, child):
        genome.check(kernel)
        assert genome.from_json(json.loads(json.dumps(genome.to_json(kernel)))) == kernel
    assert child.instructions[-1] == Normalise("l2")
    assert child == normalised(child) == normalised(cross(a, b, Draws(f"{first:016x}", "cross")))


def test_mutation_reaches_every_kind_of_instruction() -> None:
    found = {type(instruction) for number in range(40) for instruction in walk(f"{number:016x}", 12).instructions}
    assert found == {PushScalar, PushVector, Apply, Activate, Normalise, ReduceTo}


@pytest.mark.parametrize(
    ("instructions", "complaint"),
    [
        ((Apply("drop"),), "leaves nothing"),
        ((Apply("dup"),), "leaves 2 values"),
        ((ReduceTo("sum"),), "leaves a scalar"),
        ((Apply("add"),), "needs 2 values, the stack holds a vector"),
        ((ReduceTo("sum"), Normalise("l2")), "needs a vector"),
        ((PushScalar(float("inf")), Apply("mul")), "expected a finite f32"),
        ((PushScalar(0.1), Apply("mul")), "not exact in f32"),
        ((PushVector(bytes(DIM + 3), 1.0, 0.0), Apply("mul")), "expected 12 codes, got 15"),
        ((Apply("dup"),) * genome.MAX_DEPTH, "more than 8 values"),
        ((Activate("sine"),), "expected one of relu"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_kernel_is_refused(instructions: tuple[genome.Instruction, ...], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        genome.check(EvolvedKernel(DIM, instructions))


@pytest.mark.parametrize("dim", [0, 64, -3, 3 * 10**6])
def test_lengths_that_pixels_cannot_carry_are_refused(dim: int) -> None:
    with pytest.raises(InputError, match=f"of {dim} elements"):
        genome.check(EvolvedKernel(dim, ()))


ROWS = st.one_of(
    st.tuples(st.just("scalar"), st.one_of(st.floats(width=32), st.integers(), st.booleans())),
    st.tuples(st.just("vector"), st.text("0123456789abcdefg", max_size=30), st.floats(width=32), st.integers(-4, 4)),
    *(st.tuples(st.just(tag), st.sampled_from((*names, "none"))) for tag, names in NAMED.items()),
    st.lists(st.one_of(st.none(), st.text(max_size=4), st.integers()), max_size=4),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.one_of(st.none(), st.integers(), st.just(DIM)), st.one_of(st.none(), st.lists(ROWS, max_size=5)))
def test_any_json_is_a_kernel_or_refused(dim: object, rows: object) -> None:
    try:
        kernel = genome.from_json({"dim": dim, "instructions": rows})
    except InputError:
        return
    assert genome.from_json(genome.to_json(kernel)) == kernel


def test_constants_are_close_to_what_they_stand_for() -> None:
    vector = np.linspace(-0.3, 0.7, 384, dtype=np.float32)
    assert np.abs(quantised(vector).values() - vector).max() <= 0.5 / 255 * 1.01
    assert quantised(np.full(6, 0.25)).values().tolist() == [0.25] * 6
    with pytest.raises(InputError, match="not finite"):
        quantised([1.0, float("nan"), 0.0])


def test_the_pool_has_the_mean_and_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(1)
    axis = np.zeros(DIM)
    axis[3] = 1
    embeddings = (rng.normal(0, 0.01, (200, DIM)) + rng.normal(0, 1, (200, 1)) * axis + 0.5).astype(np.float32)
    mean, first, *_, inverse = (vector.values() for vector in pool_of(embeddings, directions=2))
    assert mean == pytest.approx(embeddings.mean(axis=0), abs=2e-3)
    assert abs(first[3]) == pytest.approx(1, abs=1e-2)
    assert inverse.argmin() == 3
    with pytest.raises(InputError, match="have no principal directions"):
        pool_of(embeddings[:1])


def test_phrases_are_kernels() -> None:
    for phrase in (weighted_sum(VECTOR, -1.0), projection(VECTOR, -1.0)):
        genome.check(EvolvedKernel(DIM, phrase))
