"""OpenAI's evolution strategy in seed form: a gradient estimated from pairs of opposite noises.

Sources: Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning (2017); for low rank
Sarkar et al., Evolution Strategies at the Hyperscale (2025). Steps of quantised codes have no opposite: each is
compared with the parent, and the best are applied together, as quantised evolution strategies do with signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from evolution.strategies.ask_tell import Conclusion
from evolution.strategies.options import number, one_of, whole
from evolution.strategies.search_space import Noise, SearchSpace, combine, largest, seed_of
from evolution.strategies.shaping import SHAPINGS, Shaping, of_unit_length, pair_coefficients
from evolution.strategies.state import bad, in_range, members_of
from evolution.strategies.step_size import SPREAD_LIMITS, after_generation
from vboot.weights.edits import SEED, Edit, is_number

_STRIDE_LIMITS = (2.0**-6, 1.0)
_LONGER = 1.2
_SHORTER = 0.7
"""An equilibrium at two accepted moves in three: 1.2^2 * 0.7 is about 1. The step never exceeds the learning rate: a
check that refuses only harmful moves would otherwise let steps grow until they do harm."""
_MOST = 1e6
"""No search computes a greater amount; a saved state with one is refused."""


@dataclass(frozen=True)
class AntitheticEsMemory:
    """Carried to the next generation: factors on the tier's sigma and the learning rate, and the decayed last moves."""

    spread: float
    stride: float
    velocity: tuple[Noise, ...]


@dataclass(frozen=True)
class AntitheticEs:
    """`pairs` of proposals with +noise and -noise; the move is the sum of all noises, weighted by the scores of the
    pairs.

    A move is `learning_rate` times as large as a proposal, whatever the shaping, plus `momentum` times the previous
    move. The noises with the greatest weights are kept, as many as one mutation can hold. A refused move shortens the
    next one and clears the momentum; accepted moves restore the length.

    For steps of codes: the parent and twice as many proposals as `pairs`. The move combines the best proposals that
    beat the parent, at most `together` (fewer after refusals). `shaping` and `momentum` are not used.
    """

    name: ClassVar[str] = "antithetic_es"

    space: SearchSpace
    seed: int
    pairs: Annotated[int, whole(1, 1024)] = 16
    shaping: Annotated[Shaping, one_of(*SHAPINGS)] = "standardised"
    learning_rate: Annotated[float, number(1e-6, 1e3)] = 1.0
    momentum: Annotated[float, number(0.0, 0.99)] = 0.5
    together: Annotated[int, whole(1, 256)] = 4

    def options(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {name: getattr(self, name) for name in ("pairs", "shaping", "learning_rate", "momentum", "together")}

    def start(self) -> AntitheticEsMemory:
        """Both factors 1, no momentum."""
        return AntitheticEsMemory(1.0, 1.0, ())

    def propose(self, generation: int, memory: AntitheticEsMemory) -> Sequence[tuple[Edit, ...]]:
        """+noise and -noise of each pair in turn; for steps of codes, the parent and then all noises."""
        if self._steps:
            noises = (Noise(seed_of(self.seed, generation, n), memory.spread) for n in range(2 * self.pairs))
            return [(), *(combine(self.space, [noise]) for noise in noises)]
        return [
            combine(self.space, [Noise(seed_of(self.seed, generation, pair), sign * memory.spread)])
            for pair in range(self.pairs)
            for sign in (1, -1)
        ]

    def conclude(
        self, generation: int, memory: AntitheticEsMemory, scores: Sequence[float | None]
    ) -> Conclusion[AntitheticEsMemory]:
        """The weighted sum; a pair is left out if either of its proposals has no score."""
        spread = after_generation(memory.spread, scores)
        fresh = self._best(generation, memory, scores) if self._steps else self._weighted(generation, memory, scores)
        if not any(noise.amount for noise in fresh):
            return Conclusion.stay(AntitheticEsMemory(spread, memory.stride, memory.velocity))
        carried = [Noise(noise.seed, self.momentum * noise.amount) for noise in memory.velocity]
        kept = largest(self.space, [*fresh, *carried])
        longer, shorter = memory.stride * _LONGER, memory.stride * _SHORTER
        velocity = kept if self.momentum and not self._steps else ()
        return Conclusion(
            combine(self.space, kept),
            accepted=AntitheticEsMemory(spread, min(longer, _STRIDE_LIMITS[1]), velocity),
            refused=AntitheticEsMemory(spread, max(shorter, _STRIDE_LIMITS[0]), ()),
        )

    def dump(self, memory: AntitheticEsMemory) -> dict[str, Any]:
        """A memory as JSON."""
        velocity = [[noise.seed, noise.amount] for noise in memory.velocity]
        return {"spread": memory.spread, "stride": memory.stride, "velocity": velocity}

    def load(self, members: Mapping[str, Any]) -> AntitheticEsMemory:
        """The memory from JSON. Raises InputError."""
        read = members_of(members, {"spread": float, "stride": float, "velocity": list})
        if len(read["velocity"]) > self.space.capacity:
            raise bad("its velocity holds more noises than fit a move")
        return AntitheticEsMemory(
            in_range("spread", read["spread"], *SPREAD_LIMITS),
            in_range("stride", read["stride"], *_STRIDE_LIMITS),
            tuple(_load_noise(item) for item in read["velocity"]),
        )

    @property
    def _steps(self) -> bool:
        return self.space.tier.form == "step"

    def _weighted(self, generation: int, memory: AntitheticEsMemory, scores: Sequence[float | None]) -> list[Noise]:
        """The noise of each pair that has both scores, with its share of the step."""
        scored = [
            (seed_of(self.seed, generation, pair), plus, minus)
            for pair, (plus, minus) in enumerate(zip(scores[::2], scores[1::2], strict=True))
            if plus is not None and minus is not None
        ]
        better = np.array([[plus, minus] for _, plus, minus in scored], np.float64).reshape(-1, 2)
        shares = of_unit_length(pair_coefficients(better[:, 0], better[:, 1], self.shaping))
        step = self.learning_rate * memory.stride * memory.spread
        return [Noise(seed, step * float(share)) for (seed, _, _), share in zip(scored, shares, strict=True)]

    def _best(self, generation: int, memory: AntitheticEsMemory, scores: Sequence[float | None]) -> list[Noise]:
        """The noises that beat the parent, best first, at most as many as are applied together."""
        parent = scores[0]
        gains = sorted(
            (-score, number)
            for number, score in enumerate(scores[1:])
            if parent is not None and score is not None and score > parent
        )
        count = min(max(1, round(self.together * min(memory.stride, 1.0))), self.space.capacity)
        return [Noise(seed_of(self.seed, generation, number), memory.spread) for _, number in gains[:count]]


def _load_noise(item: Any) -> Noise:
    if (
        not isinstance(item, list)
        or len(item) != 2
        or not isinstance(item[0], str)
        or SEED.fullmatch(item[0]) is None
        or not is_number(item[1])
    ):
        raise bad("its velocity is not a list of seeds and amounts")
    return Noise(item[0], in_range("velocity", float(item[1]), -_MOST, _MOST))
