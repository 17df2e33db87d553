"""A tier applied to a model: the tensors that it changes, and its noise as edits. Pure.

A noise is identified by its seed. Its *amount* is its size in units of the tier's sigma; steps of codes have no size,
so there it is a factor of the tier's density.
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
from vboot.protocol.tables import RANK_LIMIT
from vboot.weights import noise
from vboot.weights.arithmetic import targets
from vboot.weights.edits import Edit, LowRank, Seeded
from vboot.weights.storage_types import CODE_RANGES, FLOAT_STORAGE

MAX_EDITS = 256
"""Edits in one mutation, by the protocol."""

Terrain: TypeAlias = Sequence[TensorInfo]
"""The tensors of the model (name, type, shape, protected): all that a strategy knows of it."""

_LEAST_STEPS = 16
"""With this many codes expected to change, the probability that none does is e^-16."""

_BLOCK_NUMBER = re.compile(r"blk\.([0-9]{1,6})\.")


@dataclass(frozen=True)
class Noise:
    """The noise of `seed` (16 hex) times `amount`, which is negative only for forms with a sign: not for steps."""

    seed: str
    amount: float


@dataclass(frozen=True)
class SearchSpace:
    """The tensors that a tier changes on one model.

    patterns: names and globs that together match each of its tensors exactly once, and no other tensor.
    matrices: these tensors, for tiers of low rank; otherwise empty.
    least_density: for steps of codes, so that almost certainly at least one code changes.
    terrain: SHA-256 (hex) of names, types and shapes of all unprotected tensors of the model.
    """

    tier: Tier
    patterns: tuple[str, ...]
    matrices: tuple[TensorInfo, ...]
    least_density: float
    terrain: str

    @property
    def capacity(self) -> int:
        """How many noises fit into one mutation."""
        return RANK_LIMIT // self.tier.rank if self.matrices else MAX_EDITS // len(self.patterns)


def search_space(tier: Tier, terrain: Terrain) -> SearchSpace:
    """Apply `tier` to a model. Raises InputError if it matches no suitable tensor, or too many for one mutation."""
    suitable = {info.name: info for info in terrain if _suits(tier, info)}
    patterns, covered = _cover(tier, terrain, suitable)
    if not covered:
        raise InputError(
            f"the tier {tier.name!r} matches no tensor of this model that can take {tier.form!r} noise",
            remedy="choose another tier",
        )
    low_rank = tier.form == "low_rank"
    if (needed := len(covered) if low_rank else len(patterns)) > MAX_EDITS:
        raise InputError(
            f"the tier {tier.name!r} needs {needed} edits on this model, and a mutation has at most {MAX_EDITS}",
            remedy="use fewer tensors or broader patterns",
        )
    matrices = tuple(suitable[name] for name in covered if low_rank)
    elements = sum(math.prod(suitable[name].shape) for name in covered)
    return SearchSpace(tier, patterns, matrices, min(1.0, _LEAST_STEPS / elements), fingerprint(terrain))


def fingerprint(terrain: Terrain) -> str:
    """SHA-256 (hex) of the model's properties that must stay the same during a search."""
    unprotected = sorted([info.name, info.type, list(info.shape)] for info in terrain if not info.protected)
    return hashlib.sha256(json.dumps(unprotected).encode()).hexdigest()


def seed_of(*parts: str | int) -> str:
    """A distinct seed (16 hex) for every combination of parts: the start of their SHA-256."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def combine(space: SearchSpace, noises: Sequence[Noise]) -> tuple[Edit, ...]:
    """The edits that add some noises, at most `space.capacity`, each with a different seed."""
    (edits,) = mixtures(space, [noise.seed for noise in noises], [[noise.amount for noise in noises]])
    return edits


def mixtures(space: SearchSpace, seeds: Sequence[str], points: Sequence[Sequence[float]]) -> list[tuple[Edit, ...]]:
    """For each point, the edits that add the noises of `seeds`; a point holds one amount for each seed."""
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
    """The noises of the largest amounts, as many as fit a mutation, in their order; none of amount 0."""
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
    """Patterns that match the tier's suitable tensors, each exactly once; and these tensors.

    A tensor matched twice would get the same noise twice, as noise depends on seed and tensor only. A pattern that also
    matches other tensors is replaced by names.
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
    """For each matrix, the sum over seeds of amount * sigma * A·Bᵀ * sqrt(2 / rank), with A and B filled with z.

    Products of two z have the variance 1/4, so each weight gets noise of the same size as in the form `normal`.
    Source: Sarkar et al., Evolution Strategies at the Hyperscale (2025, EGGROLL).
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
    """A (ne1, rank) and B (ne0, rank): the numbers z of seed and tensor, A's before B's."""
    columns, rows = matrix.shape
    z = noise.z(noise.words(noise.key(seed, matrix.name), 0, (rows + columns) * rank)).reshape(-1, rank)
    return z[:rows], z[rows:]
