"""The interface of search strategies: ask, tell, move, settle. Pure: no clock, no machine, no files.

The caller drives each generation:

1. `ask()` returns the proposals. Each is a list of edits on the *parent*, the current weights; an empty list is the
   parent itself, for strategies that compare with it. All are scored on the same data. Until all have results, `ask`
   returns the same proposals.
2. `tell(id, verdict)` once for each, in any order. Repeating the same call changes nothing; a different verdict for an
   id, and an unknown id, are refused.
3. `move()` once all have their results: the edits that would lead from the parent to the next one, or None for no move.
4. `settle(accepted)` says whether the move was applied (False if it was None). The next `ask` starts a new generation.

`state()` between any two calls returns the complete state, including the position of the generator: a strategy restored
from it continues exactly as this one would. Randomness comes from a seed and counters alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vboot.weights.edits import Edit


@dataclass(frozen=True)
class Proposal:
    """Edits on the parent, with an id that is unique in the run: `GENERATION.MEMBER`, or `GENERATION.move`."""

    id: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Verdict:
    """The score of a proposal, higher is better; None if there is none, and then `reason` says why."""

    score: float | None
    reason: str = ""


class Strategy(Protocol):
    """A search over edits."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def generation(self) -> int:
        """The number of the current generation, from 0."""

    def ask(self) -> tuple[Proposal, ...]:
        """The proposals of this generation, at least one."""

    def tell(self, proposal: str, verdict: Verdict) -> None:
        """Record the verdict on one proposal. Raises InputError for an unknown id or a different second verdict."""

    def move(self) -> Proposal | None:
        """The change of the parent that the scores suggest, or None. Raises InputError if a result is missing."""

    def settle(self, accepted: bool) -> None:
        """End the generation. Raises InputError before `move` was called."""

    def state(self) -> bytes:
        """The complete state, as bytes for `evolution.strategies.restore`."""
