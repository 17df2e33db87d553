"""A tier on a model: what it can change there, and noise of it as edits. Pure.

Noise is named by its seed alone. An *amount* says how much of it: in units of the tier's sigma, or for steps of codes,
which have no size, of its density.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolution.strategies.tiers import Tier
from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.weights import noise
from vboot.weights.arithmetic import targets
from vboot.weights.edits import MAX_RANK, Edit, LowRank, Seeded
from vboot.weights.storage_types import CODE_RANGES, FLOAT_STORAGE

MAX_EDITS = 256
"""Edits in one mutation, by the protocol."""

Terrain: TypeAlias = Sequence[TensorInfo]
"""All that a strategy may know of the model."""

_LEAST_STEPS = 16
"""Of so many codes expected to change, the chance that none does is e^-16."""

_BLOCK_NUMBER = re.compile(r"blk\.([0-9]{1,6})\.")


@dataclass(frozen=True)
class Noise:
    """The noise of `seed` (16 hex), `amount` times; below zero only where the form has a sign: not for steps."""

    seed: str
    amount: float


@dataclass(frozen=True)
class SearchSpace:
    """What a tier changes on one model.

    patterns: names and globs that together name each of its tensors once, and nothing else.
    matrices: those tensors, for tiers of low rank; else empty.
    least_density: of steps, so that some code is all but sure to be among those that change.
    terrain: SHA-256 (hex) of names, types and shapes of all unprotected tensors of the model.
    """

    tier: Tier
    patterns: tuple[str, ...]
    matrices: tuple[TensorInfo, ...]
    least_density: float
    terrain: str

    @property
    def capacity(self) -> int:
        """Of how many noises one mutation can be made."""
        return MAX_RANK // self.tier.rank if self.matrices else MAX_EDITS // len(self.patterns)


def search_space(tier: Tier, terrain: Terrain) -> SearchSpace:
    """What `tier` comes to on a model. Raises InputError if nothing there is of it, or too much for one mutation."""
    suitable = {info.name: info for info in terrain if _suits(tier, info)}
    patterns, covered = _cover(tier, terrain, suitable)
    if not covered:
        raise InputError(
            f"the tier {tier.name!r} has nothing on this model: no tensor of its names can take {tier.form!r} noise",
            remedy="choose another tier",
        )
    low_rank = tier.form == "low_rank"
    if (needed := len(covered) if low_rank else len(patterns)) > MAX_EDITS:
        raise InputError(
            f"the tier {tier.name!r} needs {needed} edits on this model, and a mutation has at most {MAX_EDITS}",
            remedy="name fewer tensors, or broader patterns",
        )
    matrices = tuple(suitable[name] for name in covered if low_rank)
    elements = sum(math.prod(suitable[name].shape) for name in covered)
    return SearchSpace(tier, patterns, matrices, min(1.0, _LEAST_STEPS / elements), fingerprint(terrain))


def fingerprint(terrain: Terrain) -> str:
    """SHA-256 (hex) of what of a model must not change while a search goes on."""
    unprotected = sorted([info.name, info.type, list(info.shape)] for info in terrain if not info.protected)
    return hashlib.sha256(json.dumps(unprotected).encode()).hexdigest()


def seed_of(*parts: str | int) -> str:
    """A seed (16 hex) of its own for every name: the start of a SHA-256 of its parts."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def combine(space: SearchSpace, noises: Sequence[Noise]) -> tuple[Edit, ...]:
    """The sum of some noises, at most `space.capacity` of them, with a seed of its own each."""
    (edits,) = mixtures(space, [noise.seed for noise in noises], [[noise.amount for noise in noises]])
    return edits


def mixtures(space: SearchSpace, seeds: Sequence[str], points: Sequence[Sequence[float]]) -> list[tuple[Edit, ...]]:
    """For each of some points, the sum of the noises of the same seeds: an amount of each, in the order of `seeds`."""
    tier = space.tier
    if tier.form == "low_rank":
        return _low_rank_mixtures(space, seeds, points)
    return [
        tuple(
            Seeded(pattern, seed, "step", min(1.0, max(space.least_density, tier.density * amount)), 1)
            if tier.form == "step"
            else Seeded(pattern, seed, tier.form, tier.density, tier.sigma * amount)
            for seed, amount in zip(seeds, point, strict=True)
            for pattern in space.patterns
        )
        for point in points
    ]


def largest(space: SearchSpace, noises: Sequence[Noise]) -> tuple[Noise, ...]:
    """As many of them as a mutation can be made of, those of the largest amounts, in their order; none of amount 0."""
    ranked = sorted(range(len(noises)), key=lambda number: -abs(noises[number].amount))
    kept = sorted(ranked[: space.capacity])
    return tuple(noises[number] for number in kept if noises[number].amount)


def _suits(tier: Tier, info: TensorInfo) -> bool:
    if info.protected or not math.prod(info.shape):
        return False
    match tier.form:
        case "normal":
            return info.type in FLOAT_STORAGE
        case "low_rank":
            return info.type in FLOAT_STORAGE and len(info.shape) == 2
        case _:
            return info.type in CODE_RANGES


def _cover(tier: Tier, terrain: Terrain, suitable: dict[str, TensorInfo]) -> tuple[tuple[str, ...], list[str]]:
    """Patterns for the suitable tensors that the tier names, no tensor in two of them; and those tensors.

    A tensor in two patterns would get the same noise twice, for noise is a matter of seed and tensor. A pattern that
    names more than what is wanted is replaced by the names of what is.
    """
    names = [info.name for info in terrain]
    protected = {info.name for info in terrain if info.protected}
    blocks = [int(found[1]) for name in names if (found := _BLOCK_NUMBER.match(name))]
    patterns: list[str] = []
    covered: list[str] = []
    for given in tier.tensors:
        pattern = given.replace("{last}", str(max(blocks, default=0)))
        meant = targets(Seeded(pattern, "0" * 16, "normal", 1, 1), names, protected)
        new = [name for name in meant if name in suitable and name not in covered]
        patterns += [pattern] if new and new == meant else new
        covered += new
    return tuple(patterns), covered


def _low_rank_mixtures(
    space: SearchSpace, seeds: Sequence[str], points: Sequence[Sequence[float]]
) -> list[tuple[Edit, ...]]:
    """Of each matrix, the sum over seeds of amount * sigma * A·Bᵀ * sqrt(2 / rank), A and B holding z of the seed.

    The products of two z have the variance 1/4, so each weight gets noise of the same size as in the form `normal`.
    Source of the form: Sarkar et al., Evolution Strategies at the Hyperscale (2025, EGGROLL).
    """
    rank = space.tier.rank
    amounts = [np.repeat(np.array(point, np.float32), rank) for point in points]
    sums: list[list[Edit]] = [[] for _ in points]
    for matrix in space.matrices:
        factors = [_factors(matrix, seed, rank) for seed in seeds]
        a, b = (np.concatenate(sides, axis=1) for sides in zip(*factors, strict=True))
        for edits, scaled in zip(sums, amounts, strict=True):
            edits.append(LowRank(matrix.name, space.tier.sigma * math.sqrt(2 / rank), a * scaled, b))
    return [tuple(edits) for edits in sums]


def _factors(matrix: TensorInfo, seed: str, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A (ne1, rank) and B (ne0, rank): z of the words of seed and tensor, A's before B's."""
    columns, rows = matrix.shape
    z = noise.z(noise.words(noise.key(seed, matrix.name), 0, (rows + columns) * rank)).reshape(-1, rank)
    return z[:rows], z[rows:]
