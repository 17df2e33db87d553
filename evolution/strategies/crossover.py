"""Crossover: mixes the accepted edits of two searches from the same model, edit by edit."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

import numpy as np

from evolution.strategies.ask_tell import Conclusion
from evolution.strategies.options import Allowed, whole
from evolution.strategies.random_search import best_of
from evolution.strategies.search_space import MAX_EDITS, SearchSpace, Terrain, seed_of
from evolution.strategies.state import bad, in_range, members_of
from vboot.weights.edits import Edit, LowRank, Seeded, Sparse, pack, unpack

EditSequence: TypeAlias = Sequence[Edit]
"""All edits of the accepted moves of a search, in order."""

_BEYOND = 0.25
"""How far a coefficient may lie outside 0 to 1."""


@dataclass(frozen=True)
class CrossoverMemory:
    """`mix`: the share of each edit that the parent contains, those of the first lineage before the second's."""

    mix: tuple[float, ...]


def _are_lineages(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(lineage, list | tuple) and lineage for lineage in value)
        and all(isinstance(edit, get_args(Edit)) for lineage in value for edit in lineage)
        and sum(map(len, value)) <= MAX_EDITS
    )


def _lineages_from_json(value: Any, terrain: Terrain) -> tuple[EditSequence, ...]:
    if not isinstance(value, list):
        raise bad("its lineages are not a list")
    shapes = {info.name: info.shape for info in terrain}
    lineages = []
    for item in value:
        read = members_of(item, {"edits": list, "blob": str})
        try:
            blob = base64.b64decode(read["blob"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad("the blob of a lineage is not base64") from error
        if not all(isinstance(edit, dict) for edit in read["edits"]):
            raise bad("an edit in it is not an object")
        lineages.append(unpack(read["edits"], blob, shapes=shapes))
    return tuple(lineages)


_LINEAGES = Allowed(
    _are_lineages,
    f"two non-empty lists of edits, at most {MAX_EDITS} edits in all",
    _lineages_from_json,
)


@dataclass(frozen=True)
class Crossover:
    """The parent, initially the common ancestor, and mixtures of the two lineages; the best is the move.

    The first generation starts with either lineage alone, their sum and their mean. The others are random: linear edits
    (normal noise, low rank, elements added) get a share from -1/4 to 5/4, the extended line crossover of Mühlenbein and
    Schlierkamp-Voosen (1993); other edits are taken or left. In later generations the shares lie halfway between the
    parent's and random ones. Edits that are not linear are never removed again. The tier is not used.
    """

    name: ClassVar[str] = "crossover"

    space: SearchSpace
    seed: int
    lineages: Annotated[tuple[EditSequence, EditSequence], _LINEAGES]
    proposals: Annotated[int, whole(4, 1024)] = 16

    def options(self) -> dict[str, Any]:
        """The options as JSON values."""
        packed = [pack(lineage) for lineage in self.lineages]
        lineages = [{"edits": edits, "blob": base64.b64encode(blob).decode("ascii")} for edits, blob in packed]
        return {"lineages": lineages, "proposals": self.proposals}

    def start(self) -> CrossoverMemory:
        """The common ancestor: share 0 of every edit."""
        return CrossoverMemory((0.0,) * len(self._edits))

    def propose(self, generation: int, memory: CrossoverMemory) -> Sequence[tuple[Edit, ...]]:
        """The parent first, then the mixtures."""
        return [(), *(self._towards(memory, mix) for mix in self._mixes(generation, memory))]

    def conclude(
        self, generation: int, memory: CrossoverMemory, scores: Sequence[float | None]
    ) -> Conclusion[CrossoverMemory]:
        """The best mixture, if it beats the parent."""
        best = best_of(scores)
        if not best:
            return Conclusion.stay(memory)
        mix = self._mixes(generation, memory)[best - 1]
        return Conclusion(self._towards(memory, mix), CrossoverMemory(mix), memory)

    def dump(self, memory: CrossoverMemory) -> dict[str, Any]:
        """A memory as JSON."""
        return {"mix": list(memory.mix)}

    def load(self, members: Mapping[str, Any]) -> CrossoverMemory:
        """The memory from JSON. Raises InputError."""
        mix = members_of(members, {"mix": list})["mix"]
        if len(mix) != len(self._edits):
            raise bad("its mix does not fit its lineages")
        shares = (members_of({"share": share}, {"share": float})["share"] for share in mix)
        return CrossoverMemory(tuple(in_range("share", share, -_BEYOND, 1 + _BEYOND) for share in shares))

    @property
    def _edits(self) -> tuple[Edit, ...]:
        return (*self.lineages[0], *self.lineages[1])

    def _mixes(self, generation: int, memory: CrossoverMemory) -> list[tuple[float, ...]]:
        """The shares of all edits, for each proposal except the parent."""
        first, second = map(len, self.lineages)
        mixes: list[tuple[float, ...]] = []
        if generation == 0:
            half = tuple(0.5 if _is_linear(edit) else 1.0 for edit in self._edits)
            mixes = [
                (1.0,) * first + (0.0,) * second,
                (0.0,) * first + (1.0,) * second,
                (1.0,) * (first + second),
                half,
            ]
        members = range(len(mixes), self.proposals)
        return mixes + [
            self._random_mix(seed_of(self.seed, generation, member), generation, memory) for member in members
        ]

    def _random_mix(self, seed: str, generation: int, memory: CrossoverMemory) -> tuple[float, ...]:
        words = np.random.Philox(key=int(seed, 16)).random_raw(len(self._edits))
        shares = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
        return tuple(
            _share(edit, before, share, halfway=generation > 0)
            for edit, before, share in zip(self._edits, memory.mix, shares.tolist(), strict=True)
        )

    def _towards(self, memory: CrossoverMemory, mix: Sequence[float]) -> tuple[Edit, ...]:
        """The edits that lead from the parent to a mix."""
        steps = zip(self._edits, memory.mix, mix, strict=True)
        return tuple(_scaled(edit, after - before) for edit, before, after in steps if after != before)


def _share(edit: Edit, before: float, random: float, *, halfway: bool) -> float:
    """The share of an edit in a mixture, from a random number in 0..1."""
    if not _is_linear(edit):
        return 1.0 if before or random < 0.5 else 0.0
    share = random * (1 + 2 * _BEYOND) - _BEYOND
    return (before + share) / 2 if halfway else share


def _is_linear(edit: Edit) -> bool:
    """Whether the edit's effect is proportional to its scale."""
    match edit:
        case Seeded(form="normal") | LowRank() | Sparse(op="add"):
            return True
        case _:
            return False


def _scaled(edit: Edit, share: float) -> Edit:
    """The edit scaled by `share`; an edit that is not linear stays whole."""
    match edit:
        case Seeded(form="normal") | LowRank():
            return replace(edit, scale=edit.scale * share)
        case Sparse(op="add"):
            return replace(edit, values=edit.values * np.float32(share))
        case _:
            return edit
