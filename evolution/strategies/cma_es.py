"""CMA-ES in a subspace: it adapts the coefficients of some fixed directions of noise, using the `cmaes` package.

Source: Hansen, The CMA Evolution Strategy: A Tutorial (2016); `adaptive`: Nomura et al., CMA-ES with Learning Rate
Adaptation (2023); `separable`: Ros and Hansen, A Simple Modification in CMA-ES (2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evolution.strategies.ask_tell import Conclusion
from evolution.strategies.cma_fields import (
    VARIANTS,
    Fields,
    Optimiser,
    Variant,
    dump_fields,
    fields_of,
    is_healthy,
    learns,
    load_fields,
    optimiser,
    put_back,
    widest,
)
from evolution.strategies.options import one_of, whole
from evolution.strategies.search_space import SearchSpace, mixtures, seed_of
from evolution.strategies.state import MAX_COUNT, in_range, members_of
from evolution.strategies.step_size import SPREAD_LIMITS
from vboot.errors import InputError
from vboot.weights.edits import Edit

_AFTER_REFUSAL = 0.85
_AFTER_FAILURE = 0.5


@dataclass(frozen=True)
class CmaEsMemory:
    """The distribution that CMA-ES has learnt in its `epoch`-th set of directions.

    The mean is not stored: between generations it is the parent, which is 0.
    """

    epoch: int
    learnt: Fields


@dataclass(frozen=True)
class CmaEs:
    """Proposals are mixtures of `directions` fixed noises; the move is the new mean.

    Coefficients are relative to the parent. A refused move resets the mean, clears the evolution paths, which led
    there, and shortens the step. A first proposal is as large as one noise of the tier's sigma. `population` 0 is the
    package's default, 4 + 3 ln k. A proposal without a score counts as the worst; if more than half have none, only the
    step is shortened. When the distribution has become too narrow or degenerate, the search continues in new
    directions.
    """

    name: ClassVar[str] = "cma_es"

    space: SearchSpace
    seed: int
    directions: Annotated[int, whole(2, 64)] = 16
    population: Annotated[int, whole(0, 1024)] = 0
    variant: Annotated[Variant, one_of(*VARIANTS)] = "full"

    def __post_init__(self) -> None:
        if self.space.tier.form == "step":
            raise InputError(
                f"{self.name!r} mixes noises, which steps of codes do not allow", remedy="choose another tier"
            )
        if self.directions > self.space.capacity:
            raise InputError(
                f"{self.directions} directions of the tier {self.space.tier.name!r} do not fit into one mutation",
                remedy=f"use at most {self.space.capacity}",
            )
        if self.population in (1, 2, 3):
            raise InputError(
                f"a population of {self.population} is too small", remedy="use at least 4, or 0 for the default"
            )

    def options(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {name: getattr(self, name) for name in ("directions", "population", "variant")}

    def start(self) -> CmaEsMemory:
        """A spherical distribution."""
        return self._in_directions(0)

    def propose(self, generation: int, memory: CmaEsMemory) -> Sequence[tuple[Edit, ...]]:
        """Samples of the distribution."""
        return self._mixtures(memory, self._sample(generation, self._optimiser(memory)))

    def conclude(self, generation: int, memory: CmaEsMemory, scores: Sequence[float | None]) -> Conclusion[CmaEsMemory]:
        """The mean after the update, which weights the better half."""
        if 2 * sum(score is None for score in scores) > len(scores):
            sigma = max(_AFTER_FAILURE * memory.learnt["_sigma"], SPREAD_LIMITS[0] * self._first_sigma)
            return Conclusion.stay(replace(memory, learnt={**memory.learnt, "_sigma": np.array(sigma)}))
        learner = self._optimiser(memory)
        points = self._sample(generation, learner)
        costs = [math.inf if score is None else -score for score in scores]
        if not learns(learner, points, costs):
            return Conclusion.stay(self._in_directions(memory.epoch + 1))
        learnt = fields_of(self.variant, learner)
        sigma = _AFTER_REFUSAL * min(learnt["_sigma"].item(), memory.learnt["_sigma"].item())
        without_paths = dict.fromkeys(("_p_sigma", "_pc"), np.zeros(self.directions))
        (move,) = self._mixtures(memory, [learner.mean])
        return Conclusion(
            move,
            accepted=self._kept_up(memory.epoch, learnt),
            refused=self._kept_up(memory.epoch, {**learnt, **without_paths, "_sigma": np.array(sigma)}),
        )

    def dump(self, memory: CmaEsMemory) -> dict[str, Any]:
        """A memory as JSON."""
        return {"epoch": memory.epoch, "learnt": dump_fields(memory.learnt)}

    def load(self, members: Mapping[str, Any]) -> CmaEsMemory:
        """The memory from JSON. Raises InputError."""
        read = members_of(members, {"epoch": int, "learnt": dict})
        in_range("epoch", read["epoch"], 0, MAX_COUNT)
        return CmaEsMemory(read["epoch"], load_fields(self.variant, self.directions, read["learnt"]))

    @property
    def _first_sigma(self) -> float:
        """The initial step size: with it a mixture of all noises is as large as one noise."""
        return 1 / math.sqrt(self.directions)

    def _new(self) -> Optimiser:
        return optimiser(self.variant, self.directions, self.population or None, self._first_sigma)

    def _optimiser(self, memory: CmaEsMemory) -> Optimiser:
        fresh = self._new()
        put_back(memory.learnt, fresh)
        return fresh

    def _sample(self, generation: int, source: Optimiser) -> list[NDArray[np.float64]]:
        """The same points for the same generation and memory: the generator is reseeded for each generation."""
        source.reseed_rng(int(seed_of(self.seed, generation, "sample")[:8], 16))
        return [source.ask() for _ in range(source.population_size)]

    def _mixtures(self, memory: CmaEsMemory, points: Sequence[NDArray[np.float64]]) -> list[tuple[Edit, ...]]:
        seeds = [seed_of(self.seed, "direction", memory.epoch, n) for n in range(self.directions)]
        return mixtures(self.space, seeds, [point.tolist() for point in points])

    def _in_directions(self, epoch: int) -> CmaEsMemory:
        return CmaEsMemory(epoch, fields_of(self.variant, self._new()))

    def _kept_up(self, epoch: int, learnt: Fields) -> CmaEsMemory:
        """The learnt distribution if it is still wide and healthy; otherwise a new set of directions."""
        wide_enough = SPREAD_LIMITS[0] * self._first_sigma
        goes_on = is_healthy(learnt) and widest(learnt) >= wide_enough
        return CmaEsMemory(epoch, learnt) if goes_on else self._in_directions(epoch + 1)
