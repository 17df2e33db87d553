"""The (1+1) evolution strategy: one child a generation, its step size after the 1/5 success rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from evolution.strategies.ask_tell import Conclusion
from evolution.strategies.search_space import Noise, SearchSpace, combine, seed_of
from evolution.strategies.state import in_range, members_of
from evolution.strategies.step_size import SPREAD_LIMITS, one_fifth
from vboot.weights.edits import Edit


@dataclass(frozen=True)
class OnePlusOneMemory:
    """`spread`: the factor on the tier's sigma."""

    spread: float


@dataclass(frozen=True)
class OnePlusOne:
    """The parent, scored again on each generation's data, and one noise of it, which is the move if it scores higher.

    Scoring the parent again prevents that an old lucky score stops the search. The rule counts a move as a success only
    when it is accepted: with noisy scores half of all children look better.
    """

    name: ClassVar[str] = "one_plus_one"

    space: SearchSpace
    seed: int

    def options(self) -> dict[str, Any]:
        """No options."""
        return {}

    def start(self) -> OnePlusOneMemory:
        """A factor of 1."""
        return OnePlusOneMemory(1.0)

    def propose(self, generation: int, memory: OnePlusOneMemory) -> Sequence[tuple[Edit, ...]]:
        """The parent and the child."""
        return [(), combine(self.space, [Noise(seed_of(self.seed, generation), memory.spread)])]

    def conclude(
        self, generation: int, memory: OnePlusOneMemory, scores: Sequence[float | None]
    ) -> Conclusion[OnePlusOneMemory]:
        """The child, if both have scores and the child's is greater."""
        parent, child = scores
        better = parent is not None and child is not None and child > parent
        accepted, refused = (OnePlusOneMemory(one_fifth(memory.spread, success)) for success in (True, False))
        return Conclusion(self.propose(generation, memory)[1] if better else None, accepted, refused)

    def dump(self, memory: OnePlusOneMemory) -> dict[str, Any]:
        """A memory as JSON."""
        return asdict(memory)

    def load(self, members: Mapping[str, Any]) -> OnePlusOneMemory:
        """The memory from JSON. Raises InputError."""
        return OnePlusOneMemory(in_range("spread", members_of(members, {"spread": float})["spread"], *SPREAD_LIMITS))
