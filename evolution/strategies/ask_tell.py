"""The life of a generation, the same for all strategies; what differs is a `Rule`. Pure.

A rule has no state of its own. It says what a generation proposes, and what follows from the scores, as functions of a
*memory*, which is all that one generation leaves to the next. So the state of a search is its options, the number of
the generation, the memory and the verdicts so far: nothing else has to be saved, and nothing can be forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from evolution.strategies.contract import Proposal, Verdict
from evolution.strategies.search_space import SearchSpace
from evolution.strategies.state import SearchProgress, bad, write
from vboot.errors import InputError
from vboot.weights.edits import Edit

MemoryT = TypeVar("MemoryT")


@dataclass(frozen=True)
class Conclusion(Generic[MemoryT]):
    """What follows from the scores of a generation: a move (None: stay), and the memory if it is made and if not."""

    edits: tuple[Edit, ...] | None
    accepted: MemoryT
    refused: MemoryT

    @classmethod
    def stay(cls, memory: MemoryT) -> Conclusion[MemoryT]:
        """No move."""
        return cls(None, memory, memory)


class Rule(Protocol[MemoryT]):
    """A search strategy as pure functions: a frozen dataclass of space, seed and options."""

    name: ClassVar[str]

    def __init__(self, *, space: SearchSpace, seed: int, **options: Any) -> None: ...

    @property
    def space(self) -> SearchSpace:
        """Where it searches."""

    @property
    def seed(self) -> int:
        """All its randomness comes from this and counters."""

    def options(self) -> dict[str, Any]:
        """Its options as JSON."""

    def start(self) -> MemoryT:
        """The memory before generation 0."""

    def propose(self, generation: int, memory: MemoryT) -> Sequence[tuple[Edit, ...]]:
        """The edits of each proposal, at least one; none at all for the parent."""

    def conclude(self, generation: int, memory: MemoryT, scores: Sequence[float | None]) -> Conclusion[MemoryT]:
        """What follows from the scores, in the order of the proposals."""

    def dump(self, memory: MemoryT) -> dict[str, Any]:
        """A memory as JSON, from which `load` gets it back exactly."""

    def load(self, members: Mapping[str, Any]) -> MemoryT:
        """The memory of which `dump` made these. Raises InputError for anything else."""


class AskTell(Generic[MemoryT]):
    """A search under way: the `Strategy` that a rule makes."""

    def __init__(self, rule: Rule[MemoryT], life: SearchProgress | None = None) -> None:
        """A search from its start, or from where `life`, read from a state, left it; InputError where that is wrong."""
        self._rule = rule
        self._generation = life.generation if life else 0
        self._memory = rule.load(life.memory) if life else rule.start()
        self._asked = life is not None and life.asked
        self._moved = life is not None and life.moved
        self._verdicts = dict(life.verdicts) if life else {}
        self._proposals: tuple[Proposal, ...] | None = None
        self._outcome: Conclusion[MemoryT] | None = None
        if self._verdicts and not self._verdicts.keys() <= self._ids():
            raise bad("it has a verdict on what was never proposed")
        if (not self._asked and (self._verdicts or self._moved)) or (self._moved and self._waiting()):
            raise bad("it is of no time in the life of a generation")

    @property
    def name(self) -> str:
        """What the registry calls it."""
        return self._rule.name

    @property
    def generation(self) -> int:
        """Which generation is under way, from 0."""
        return self._generation

    def ask(self) -> tuple[Proposal, ...]:
        """The proposals of this generation."""
        self._asked = True
        return self._current()

    def tell(self, proposal: str, verdict: Verdict) -> None:
        """What came of one of them. Raises InputError for an unknown id, another verdict, or no finite score."""
        if not self._asked or proposal not in self._ids():
            raise InputError(
                f"{proposal!r:.40} is no proposal of generation {self._generation}", remedy="tell what was asked"
            )
        verdict = Verdict(None if verdict.score is None else float(verdict.score), verdict.reason)
        if verdict.score is not None and not math.isfinite(verdict.score):
            raise InputError(f"the score of {proposal} is {verdict.score}", remedy="tell None for what has no score")
        if self._verdicts.setdefault(proposal, verdict) != verdict:
            raise InputError(f"another verdict on {proposal} was told before", remedy="tell each proposal once")

    def move(self) -> Proposal | None:
        """Where to go from here. Raises InputError until all proposals are told."""
        if waiting := self._waiting():
            raise InputError(f"{waiting} proposals of generation {self._generation} have no verdict", remedy="tell all")
        self._moved = True
        edits = self._conclusion().edits
        return None if edits is None else Proposal(f"{self._generation}.move", edits)

    def settle(self, accepted: bool) -> None:
        """End the generation. Raises InputError before `move`, and where a move that there is not was accepted."""
        if not self._moved:
            raise InputError(f"generation {self._generation} has not come to its move", remedy="ask for the move first")
        outcome = self._conclusion()
        if accepted and outcome.edits is None:
            raise InputError(f"generation {self._generation} has no move to accept", remedy="settle it as refused")
        self._memory = outcome.accepted if accepted else outcome.refused
        self._generation += 1
        self._asked = self._moved = False
        self._verdicts = {}
        self._proposals = self._outcome = None

    def state(self) -> bytes:
        """Everything, as bytes that `evolution.strategies.restore` understands."""
        memory = self._rule.dump(self._memory)
        life = SearchProgress(self._generation, self._asked, self._moved, self._verdicts, memory)
        return write(self.name, self._rule.space, self._rule.seed, self._rule.options(), life)

    def _current(self) -> tuple[Proposal, ...]:
        if self._proposals is None:
            proposed = self._rule.propose(self._generation, self._memory)
            self._proposals = tuple(Proposal(f"{self._generation}.{n}", edits) for n, edits in enumerate(proposed))
        return self._proposals

    def _ids(self) -> set[str]:
        return {proposal.id for proposal in self._current()}

    def _waiting(self) -> int:
        return len(self._current()) - len(self._verdicts)

    def _conclusion(self) -> Conclusion[MemoryT]:
        if self._outcome is None:
            scores = [self._verdicts[proposal.id].score for proposal in self._current()]
            self._outcome = self._rule.conclude(self._generation, self._memory, scores)
        return self._outcome
