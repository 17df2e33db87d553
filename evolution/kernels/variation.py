"""Mutation and crossover of kernels. Pure: all randomness comes from the `Draws` given.

A kernel is cut only where its stack holds exactly one vector. The instructions between two cuts are a *phrase*, which
maps a vector to a vector. Phrases can be inserted, removed and replaced, and the halves of two kernels joined; the
result is always a valid kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from evolution.kernels.draws import Draws
from evolution.kernels.genome import (
    ACTS,
    NORMS,
    Activate,
    Apply,
    EvolvedKernel,
    Instruction,
    Normalise,
    PushScalar,
    PushVector,
    ReduceTo,
    stacks,
)

Phrase: TypeAlias = tuple[Instruction, ...]

_STEP = 0.3
"""The standard deviation of a change of a scalar, relative and absolute."""
_CODE_STEP = 16
"""The largest change of a code of a vector."""
_LEAST, _MOST = 1e-6, 1e6
"""Bounds of a scalar's magnitude: beyond them f32 arithmetic on vectors of length 1 gives 0 or infinity."""


def mutate(kernel: EvolvedKernel, pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    """A neighbour of the kernel, possibly equal to it. `pool`: the constant vectors for new phrases."""
    return draws.choice(_MUTATIONS)(kernel, pool, draws)


def cross(a: EvolvedKernel, b: EvolvedKernel, draws: Draws) -> EvolvedKernel:
    """The beginning of `a` and the end of `b`; both are for vectors of the same length."""
    head, tail = draws.choice(_cuts(a)), draws.choice(_cuts(b))
    return replace(a, instructions=a.instructions[:head] + b.instructions[tail:])


def normalised(kernel: EvolvedKernel) -> EvolvedKernel:
    """The kernel with its result scaled to length 1, as embeddings are."""
    last = Normalise("l2")
    if kernel.instructions[-1:] == (last,):
        return kernel
    return replace(kernel, instructions=(*kernel.instructions, last))


def weighted_sum(vector: PushVector, weight: float) -> Phrase:
    """x + weight * vector: with the mean and weight -1 it centres."""
    return (vector, PushScalar(_f32(weight)), Apply("mul"), Apply("add"))


def weighted_product(vector: PushVector, weight: float) -> Phrase:
    """x * (1 + weight * vector), element by element."""
    return (vector, PushScalar(_f32(weight)), Apply("mul"), PushScalar(1.0), Apply("add"), Apply("mul"))


def projection(vector: PushVector, weight: float) -> Phrase:
    """x + weight * (x · vector) * vector: weight -1 and a unit vector remove the component along it."""
    along = (Apply("dup"), vector, Apply("mul"), ReduceTo("sum"), vector, Apply("mul"))
    return (*along, PushScalar(_f32(weight)), Apply("mul"), Apply("add"))


def _insert(kernel: EvolvedKernel, pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    at = draws.choice(_cuts(kernel))
    return _spliced(kernel, at, at, draws.choice(_PHRASES)(pool, draws))


def _remove(kernel: EvolvedKernel, _pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    return _spliced(kernel, *_a_phrase(kernel, draws), ())


def _exchange(kernel: EvolvedKernel, pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    return _spliced(kernel, *_a_phrase(kernel, draws), draws.choice(_PHRASES)(pool, draws))


def _change_scalar(kernel: EvolvedKernel, _pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    at = _one_of(kernel, PushScalar, draws)
    if at is None:
        return kernel
    value = vars(kernel.instructions[at])["value"]
    factor, addend = draws.choice(((1 + _STEP * draws.normal(), 0.0), (1.0, _STEP * draws.normal()), (-1.0, 0.0)))
    return _spliced(kernel, at, at + 1, (PushScalar(_f32(value * factor + addend)),))


def _change_vector(kernel: EvolvedKernel, pool: Sequence[PushVector], draws: Draws) -> EvolvedKernel:
    """Another vector of the pool, or new codes for one element in sixteen."""
    at = _one_of(kernel, PushVector, draws)
    if at is None:
        return kernel
    vector = kernel.instructions[at]
    if not isinstance(vector, PushVector) or draws.below(2):
        return _spliced(kernel, at, at + 1, (draws.choice(pool),))
    words = draws.words(kernel.dim)
    steps = (words >> np.uint64(32)).astype(np.int64) % (2 * _CODE_STEP + 1) - _CODE_STEP
    codes = np.frombuffer(vector.codes, np.uint8) + np.where(words % np.uint64(16) == 0, steps, 0)
    jittered = replace(vector, codes=codes.clip(0, 255).astype(np.uint8).tobytes())
    return _spliced(kernel, at, at + 1, (jittered,))


_Mutation: TypeAlias = Callable[[EvolvedKernel, Sequence[PushVector], Draws], EvolvedKernel]
_MUTATIONS: tuple[_Mutation, ...] = (
    _insert,
    _insert,
    _remove,
    _exchange,
    _change_scalar,
    _change_scalar,
    _change_vector,
)

_PHRASES: tuple[Callable[[Sequence[PushVector], Draws], Phrase], ...] = (
    lambda pool, draws: weighted_sum(draws.choice(pool), draws.normal()),
    lambda pool, draws: weighted_sum(draws.choice(pool), -1.0),
    lambda pool, draws: weighted_product(draws.choice(pool), draws.normal()),
    lambda pool, draws: projection(draws.choice(pool), draws.normal()),
    lambda pool, draws: projection(draws.choice(pool), -1.0),
    lambda _pool, draws: (PushScalar(_f32(4 ** draws.normal())), Apply("mul")),
    lambda _pool, draws: (PushScalar(_f32(_STEP * draws.normal())), Apply("add")),
    lambda _pool, draws: (Activate(draws.choice(ACTS)),),
    lambda _pool, draws: (Normalise(draws.choice(NORMS)),),
    lambda _pool, draws: (
        Apply("dup"),
        Activate(draws.choice(ACTS)),
        PushScalar(_f32(draws.normal())),
        Apply("mul"),
        Apply("add"),
    ),
)


def _cuts(kernel: EvolvedKernel) -> list[int]:
    """The positions, including the end, at which the stack holds exactly one vector."""
    return [at for at, stack in enumerate(stacks(kernel)) if stack == ("vector",)]


def _a_phrase(kernel: EvolvedKernel, draws: Draws) -> tuple[int, int]:
    """The start and end of one phrase, from a cut to the next; both equal for an empty kernel."""
    cuts = _cuts(kernel)
    number = draws.below(max(1, len(cuts) - 1))
    return cuts[number], cuts[min(number + 1, len(cuts) - 1)]


def _one_of(kernel: EvolvedKernel, kind: type[Instruction], draws: Draws) -> int | None:
    places = [at for at, instruction in enumerate(kernel.instructions) if isinstance(instruction, kind)]
    return draws.choice(places) if places else None


def _spliced(kernel: EvolvedKernel, start: int, end: int, phrase: Phrase) -> EvolvedKernel:
    return replace(kernel, instructions=kernel.instructions[:start] + phrase + kernel.instructions[end:])


def _f32(value: float) -> float:
    """The nearest f32 within the bounds of a scalar."""
    size = min(max(abs(value), _LEAST), _MOST)
    return float(np.float32(-size if value < 0 else size))
