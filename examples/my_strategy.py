"""A search strategy of your own: written as a rule, run on a model inside this process.

    python examples/my_strategy.py MODEL.gguf

The strategy is a hill climb: each generation tries some noises of the parent's norms and moves to the best of them if
that is better than the parent; the step size falls when none is. The score is how alike the embeddings of two texts
are. To use a strategy with `vboot evolve`, register its class in `evolution/strategies/registry.py` and give it the
contract test in `evolution/testing/strategy_contract.py`, as CONTRIBUTING.md describes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from evolution.strategies.ask_tell import AskTell, Conclusion
from evolution.strategies.contract import Strategy, Verdict
from evolution.strategies.search_space import Noise, SearchSpace, combine, search_space, seed_of
from evolution.strategies.tiers import STANDARD_TIERS
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.weights.edits import Edit

TEXTS = ("the cat sat on the mat", "a kitten lay on a rug")
GENERATIONS = 8


@dataclass(frozen=True)
class HillClimb:
    """Tries `proposals` noises a generation. Its memory, which one generation leaves to the next, is the step size."""

    name: ClassVar[str] = "hill_climb"

    space: SearchSpace
    seed: int
    proposals: int = 6

    def options(self) -> dict[str, Any]:
        """The options as JSON."""
        return {"proposals": self.proposals}

    def start(self) -> float:
        """The step size before generation 0, in units of the tier's own."""
        return 1.0

    def propose(self, generation: int, memory: float) -> Sequence[tuple[Edit, ...]]:
        """The parent (no edits) and its neighbours. The same arguments must always give the same proposals."""
        seeds = (seed_of(self.seed, generation, number) for number in range(self.proposals))
        return [(), *(combine(self.space, [Noise(seed, memory)]) for seed in seeds)]

    def conclude(self, generation: int, memory: float, scores: Sequence[float | None]) -> Conclusion[float]:
        """Move to the best neighbour if it beats the parent; shorter steps otherwise. None: that one has no score."""
        known = {number: score for number, score in enumerate(scores) if score is not None}
        best = max(known, key=lambda number: (known[number], -number), default=0)
        if best == 0:
            return Conclusion.stay(memory / 2)
        return Conclusion(self.propose(generation, memory)[best], accepted=memory * 1.2, refused=memory / 2)

    def dump(self, memory: float) -> dict[str, Any]:
        """The memory as JSON."""
        return {"step": memory}

    def load(self, members: Mapping[str, Any]) -> float:
        """The memory from JSON."""
        return float(members["step"])


def score(machine: MachineClient) -> float:
    """The cosine of the two texts' embeddings."""
    first, second = machine.embed(TEXTS).vectors
    return float(first @ second)


def one_generation(machine: MachineClient, strategy: Strategy) -> None:
    """Score every proposal on the live weights, taking each back, and make the strategy's move."""
    base = machine.hello().generation
    for proposal in strategy.ask():
        if proposal.edits:
            machine.mutate(proposal.edits, confidence=0.9, origin=proposal.id, wait=True)
        strategy.tell(proposal.id, Verdict(score(machine)))
        if proposal.edits:
            machine.rollback(base)
    move = strategy.move()
    if move is not None:
        machine.mutate(move.edits, confidence=0.9, origin=move.id, wait=True)
    strategy.settle(move is not None)


def main(model: Path) -> None:
    """Print the score after each generation."""
    with RustNeuralBridge() as bridge:
        bridge.initialize(model)
        machine = bridge.client()
        space = search_space(STANDARD_TIERS["norms"], machine.tensors())
        strategy = AskTell(HillClimb(space=space, seed=1))
        print(f"start: {score(machine):.4f}")
        for _ in range(GENERATIONS):
            one_generation(machine, strategy)
            print(f"generation {strategy.generation}: {score(machine):.4f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: my_strategy.py MODEL.gguf")
    main(Path(sys.argv[1]))
