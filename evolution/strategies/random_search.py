"""Random search: the baseline for the other strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from evolution.strategies.ask_tell import Conclusion
from evolution.strategies.options import whole
from evolution.strategies.search_space import Noise, SearchSpace, combine, seed_of
from evolution.strategies.state import in_range, members_of
from evolution.strategies.step_size import SPREAD_LIMITS, after_generation
from vboot.weights.edits import Edit


@dataclass(frozen=True)
class RandomSearchMemory:
    """`spread`: the factor on the tier's sigma."""

    spread: float


@dataclass(frozen=True)
class RandomSearch:
    """The parent and `proposals` independent noises of it; the best of them is the move if it beats the parent."""

    name: ClassVar[str] = "random_search"

    space: SearchSpace
    seed: int
    proposals: Annotated[int, whole(1, 1024)] = 16

    def options(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {"proposals": self.proposals}

    def start(self) -> RandomSearchMemory:
        """A factor of 1."""
        return RandomSearchMemory(1.0)

    def propose(self, generation: int, memory: RandomSearchMemory) -> Sequence[tuple[Edit, ...]]:
        """The parent first, then the noises."""
        noises = (
            Noise(seed_of(self.seed, generation, member), memory.spread) for member in range(1, self.proposals + 1)
        )
        return [(), *(combine(self.space, [noise]) for noise in noises)]

    def conclude(
        self, generation: int, memory: RandomSearchMemory, scores: Sequence[float | None]
    ) -> Conclusion[RandomSearchMemory]:
        """The best proposal, if it beats the parent."""
        after = RandomSearchMemory(after_generation(memory.spread, scores))
        best = best_of(scores)
        return Conclusion(self.propose(generation, memory)[best] if best else None, after, after)

    def dump(self, memory: RandomSearchMemory) -> dict[str, Any]:
        """A memory as JSON."""
        return asdict(memory)

    def load(self, members: Mapping[str, Any]) -> RandomSearchMemory:
        """The memory from JSON. Raises InputError."""
        return RandomSearchMemory(in_range("spread", members_of(members, {"spread": float})["spread"], *SPREAD_LIMITS))


def best_of(scores: Sequence[float | None]) -> int:
    """The index of the best proposal, the first of equals; 0, the parent, if nothing beats it or it has no score."""
    parent = scores[0]
    if parent is None:
        return 0
    return max(range(len(scores)), key=lambda n: (parent if (score := scores[n]) is None else score, -n))
