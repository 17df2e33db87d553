"""The steps of a generation, the same for all strategies; what differs is a `Rule`. Pure.

A rule has no state. It computes a generation's proposals, and the conclusion from their scores, as functions of a
*memory*, the only data that one generation passes to the next. So the state of a search is its options, the number of
the generation, the memory and the verdicts so far; nothing else needs to be saved.
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
    """The result of a generation: a move (None: none), and the next memory if the move is accepted, and if refused."""

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
        """The search space."""

    @property
    def seed(self) -> int:
        """The source of all randomness, together with counters."""

    def options(self) -> dict[str, Any]:
        """Its options as JSON."""

    def start(self) -> MemoryT:
        """The memory before generation 0."""

    def propose(self, generation: int, memory: MemoryT) -> Sequence[tuple[Edit, ...]]:
        """The edits of each proposal, at least one proposal; the parent is a proposal without edits."""

    def conclude(self, generation: int, memory: MemoryT, scores: Sequence[float | None]) -> Conclusion[MemoryT]:
        """The conclusion from the scores, which are in the order of the proposals."""

    def dump(self, memory: MemoryT) -> dict[str, Any]:
        """A memory as JSON values; `load` restores it exactly."""

    def load(self, members: Mapping[str, Any]) -> MemoryT:
        """The memory that `dump` wrote. Raises InputError for anything else."""


class AskTell(Generic[MemoryT]):
    """A running search: the `Strategy` of a rule."""

    def __init__(self, rule: Rule[MemoryT], progress: SearchProgress | None = None) -> None:
        """Start a search, or continue at `progress`, read from a state. Raises InputError if that is inconsistent."""
        self._rule = rule
        self._generation = progress.generation if progress else 0
        self._memory = rule.load(progress.memory) if progress else rule.start()
        self._asked = progress is not None and progress.asked
        self._moved = progress is not None and progress.moved
        self._verdicts = dict(progress.verdicts) if progress else {}
        self._proposals: tuple[Proposal, ...] | None = None
        self._outcome: Conclusion[MemoryT] | None = None
        if self._verdicts and not self._verdicts.keys() <= self._ids():
            raise bad("it has a verdict on a proposal that does not exist")
        if (not self._asked and (self._verdicts or self._moved)) or (self._moved and self._waiting()):
            raise bad("its members asked, moved and verdicts contradict each other")

    @property
    def name(self) -> str:
        """The name in the registry."""
        return self._rule.name

    @property
    def generation(self) -> int:
        """The number of the current generation, from 0."""
        return self._generation

    def ask(self) -> tuple[Proposal, ...]:
        """The proposals of this generation."""
        self._asked = True
        return self._current()

    def tell(self, proposal: str, verdict: Verdict) -> None:
        """Record the verdict on one proposal.

        Raises InputError for an unknown id, a second verdict, or no finite score.
        """
        if not self._asked or proposal not in self._ids():
            raise InputError(
                f"{proposal!r:.40} is not a proposal of generation {self._generation}",
                remedy="call ask first, and tell the ids that it returns",
            )
        verdict = Verdict(None if verdict.score is None else float(verdict.score), verdict.reason)
        if verdict.score is not None and not math.isfinite(verdict.score):
            raise InputError(
                f"the score of {proposal} is {verdict.score}, expected a finite number",
                remedy="tell None when there is no score",
            )
        if self._verdicts.setdefault(proposal, verdict) != verdict:
            raise InputError(
                f"{proposal} has another verdict already", remedy="tell each proposal once, or the same verdict again"
            )

    def move(self) -> Proposal | None:
        """The change of the parent that the scores suggest, or None. Raises InputError if a result is missing."""
        if waiting := self._waiting():
            raise InputError(
                f"{waiting} proposals of generation {self._generation} have no verdict", remedy="tell all of them first"
            )
        self._moved = True
        edits = self._conclusion().edits
        return None if edits is None else Proposal(f"{self._generation}.move", edits)

    def settle(self, accepted: bool) -> None:
        """End the generation. Raises InputError before `move`, and if `accepted` although there is no move."""
        if not self._moved:
            raise InputError(f"generation {self._generation} has no move yet", remedy="call move first")
        outcome = self._conclusion()
        if accepted and outcome.edits is None:
            raise InputError(
                f"generation {self._generation} has no move to accept", remedy="settle it with accepted=False"
            )
        self._memory = outcome.accepted if accepted else outcome.refused
        self._generation += 1
        self._asked = self._moved = False
        self._verdicts = {}
        self._proposals = self._outcome = None

    def state(self) -> bytes:
        """The complete state, as bytes for `evolution.strategies.restore`."""
        memory = self._rule.dump(self._memory)
        progress = SearchProgress(self._generation, self._asked, self._moved, self._verdicts, memory)
        return write(self.name, self._rule.space, self._rule.seed, self._rule.options(), progress)

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
