"""A search for kernels: (mu + lambda) with mutation and crossover. Pure: state in, state out.

    state = begin(plan, score)
    for _ in range(generations):
        state = step(state, plan, score)
    best = state.population[0]

A generation is a function of the plan, the previous generation and the scores alone, so a run continued from
`dump(state)` ends like one that was never interrupted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from evolution.kernels import genome, to_pixels
from evolution.kernels.draws import Draws
from evolution.kernels.genome import EvolvedKernel, PushVector
from evolution.kernels.variation import cross, mutate, normalised
from vboot.errors import InputError
from vboot.weights.pixels import PIXEL_BYTES

Score: TypeAlias = Callable[[EvolvedKernel], float]
"""The score of a kernel, higher is better; raises InputError if its results are not finite. It must be a function of
the kernel alone, the same for the whole run, as survivors keep their score."""

_CROSSED = 4
"""One child in this many has two parents."""


@dataclass(frozen=True)
class KernelSearchPlan:
    """A search: the length of vectors, the seed (16 hex digits), the constant vectors for new phrases
    (`constants.pool_of`), the survivors of a generation (mu), the children of one (lambda)."""

    dim: int
    seed: str
    pool: tuple[PushVector, ...]
    survivors: int = 8
    children: int = 24


@dataclass(frozen=True)
class ScoredKernel:
    """A kernel, its score, and its length in pixels."""

    kernel: EvolvedKernel
    score: float
    pixels: int


@dataclass(frozen=True)
class KernelSearchState:
    """The state between two generations: `population`, best first, never empty; `evaluations` so far."""

    generation: int
    population: tuple[ScoredKernel, ...]
    evaluations: int


def begin(plan: KernelSearchPlan, score: Score) -> KernelSearchState:
    """The initial state with one kernel, which only normalises its input.

    Raises InputError for an invalid plan, and what `score` raises.
    """
    if not plan.pool or plan.survivors < 1 or plan.children < 1:
        raise InputError(
            "the plan of a search has no constants, survivors or children", remedy="give at least one of each"
        )
    kernel = normalised(EvolvedKernel(plan.dim, ()))
    return KernelSearchState(0, (_scored(kernel, score),), 1)


def step(state: KernelSearchState, plan: KernelSearchPlan, score: Score) -> KernelSearchState:
    """The next generation. Children that do not fit a slot are not scored; those without finite results are dropped."""
    known = {scored.kernel for scored in state.population}
    born: list[ScoredKernel] = []
    evaluations = state.evaluations
    for number in range(plan.children):
        child = _child(state, plan, number)
        if child in known or not _fits(child):
            continue
        known.add(child)
        evaluations += 1
        try:
            born.append(_scored(child, score))
        except InputError:
            continue
    return KernelSearchState(state.generation + 1, _best(plan.survivors, (*state.population, *born)), evaluations)


def dump(state: KernelSearchState) -> bytes:
    """The state as bytes, the same for the same state."""
    population = [{"kernel": genome.to_json(one.kernel), "score": one.score} for one in state.population]
    rows = {"generation": state.generation, "evaluations": state.evaluations, "population": population}
    return json.dumps(rows, sort_keys=True).encode()


def load(data: bytes) -> KernelSearchState:
    """The state that `dump` wrote. Raises InputError for anything else."""
    try:
        rows = json.loads(data)
        population = tuple(_known(genome.from_json(row["kernel"]), row["score"]) for row in rows["population"])
        numbers = (rows["generation"], rows["evaluations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_state(f"{error!r:.60}") from error
    if not population or any(type(number) is not int or number < 0 for number in numbers):
        raise _no_state("its population is empty or a number is not valid")
    return KernelSearchState(numbers[0], population, numbers[1])


def _child(state: KernelSearchState, plan: KernelSearchPlan, number: int) -> EvolvedKernel:
    draws = Draws(plan.seed, f"kernel {state.generation}.{number}")
    parent = draws.choice(state.population).kernel
    if draws.below(_CROSSED) == 0:
        parent = cross(parent, draws.choice(state.population).kernel, draws)
    return normalised(mutate(parent, plan.pool, draws))


def _fits(kernel: EvolvedKernel) -> bool:
    try:
        to_pixels.program(kernel)
    except InputError:
        return False
    return True


def _scored(kernel: EvolvedKernel, score: Score) -> ScoredKernel:
    return _known(kernel, float(score(kernel)))


def _known(kernel: EvolvedKernel, score: object) -> ScoredKernel:
    if not isinstance(score, float) or not math.isfinite(score):
        raise InputError(f"expected a finite number as the score of a kernel, got {score!r:.40}")
    return ScoredKernel(kernel, score, len(to_pixels.program(kernel)) // PIXEL_BYTES)


def _best(count: int, population: Iterable[ScoredKernel]) -> tuple[ScoredKernel, ...]:
    """The kernels of the highest scores; of equal ones the shortest, then the oldest (sorting is stable)."""
    return tuple(sorted(population, key=lambda one: (-one.score, one.pixels)))[:count]


def _no_state(why: str) -> InputError:
    return InputError(f"the bytes are not a state of a kernel search ({why})", remedy="give what `dump` returned")
