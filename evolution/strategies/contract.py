"""What a search strategy is: ask, tell, move, settle. Pure: no clock, no machine, no files.

The life of a generation, which the caller drives:

1. `ask()` gives its proposals. Each is a list of edits on the *parent*, the weights as they are now; no edits at all
   is the parent itself, for strategies that compare with it. All are scored on the same data. Asked again before all
   are told, it gives the same proposals.
2. `tell(id, verdict)` once for each, in any order. Telling the same again changes nothing; another verdict for an id
   already told, and an id never asked, are refused.
3. `move()` once all are told: the edits that would lead from the parent to the next one, or None for no move.
4. `settle(accepted)` says whether the move was made (False also for None). The next `ask` starts another generation.

`state()` at any time between two calls holds everything, the position of the generator included: a strategy restored
from it goes on exactly as this one would. Randomness comes from a seed and counters alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vboot.weights.edits import Edit


@dataclass(frozen=True)
class Proposal:
    """Edits on the parent under a name, unique in its run: `GENERATION.MEMBER`, or `GENERATION.move`."""

    id: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Verdict:
    """A score, higher being better; None when there is none, and then `reason` says why."""

    score: float | None
    reason: str = ""


class Strategy(Protocol):
    """A search in the space of edits."""

    @property
    def name(self) -> str:
        """What the registry calls it."""

    @property
    def generation(self) -> int:
        """Which generation is under way, from 0."""

    def ask(self) -> tuple[Proposal, ...]:
        """The proposals of this generation, at least one."""

    def tell(self, proposal: str, verdict: Verdict) -> None:
        """What came of one of them. Raises InputError for an unknown id, or another verdict than before."""

    def move(self) -> Proposal | None:
        """Where to go from here. Raises InputError until all proposals are told."""

    def settle(self, accepted: bool) -> None:
        """End the generation. Raises InputError before `move` was asked for."""

    def state(self) -> bytes:
        """Everything, as bytes that `evolution.strategies.restore` understands."""
