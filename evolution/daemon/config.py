"""What a run is to do: the search, how moves are admitted, how the body is treated. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from evolution.ctrm.contract import CtrmLimits
from evolution.strategies.contract import Strategy
from evolution.strategies.registry import make, restore
from evolution.strategies.tiers import Tier
from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo

Mode: TypeAlias = Literal["live", "trial", "file"]

MODES: tuple[Mode, ...] = get_args(Mode)
_SEEDS = 1 << 53


@dataclass(frozen=True)
class StrategyPlan:
    """A strategy by its name in the registry, and the tiers it searches, one after the other when one gives no more."""

    name: str
    tiers: tuple[Tier, ...]
    seed: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tiers:
            raise InputError("the search has no tier", remedy="name one or more")

    def begin(self, terrain: Sequence[TensorInfo], stage: int) -> Strategy:
        """A new search in the tier of this stage, with a seed of its own. Raises InputError."""
        seed = self.seed
        if stage:
            seed = int(hashlib.sha256(f"{seed}/{stage}".encode()).hexdigest(), 16) % _SEEDS
        return make(self.name, terrain, self.tier(stage), seed, **self.options)

    def tier(self, stage: int) -> Tier:
        """The tier of a stage: after the last comes the first again."""
        return self.tiers[stage % len(self.tiers)]

    def restore(self, state: bytes, terrain: Sequence[TensorInfo]) -> Strategy:
        """The search that a state is of. Raises InputError."""
        return restore(state, terrain)


@dataclass(frozen=True)
class Admission:
    """Which moves are kept, beside what CTRM refuses.

    least_gain: the relative rise of the calibration score that a move must exceed; below 0, so much may be lost.
    most_lost: how far below the run's best calibration score the parent may fall, relative: many small losses add up.
    watch_lost: the relative fall of the score on the watch data that is put up with; few texts, so it is a coarse look.
    """

    least_gain: float = 0.0
    most_lost: float = 0.02
    watch_lost: float = 0.1
    limits: CtrmLimits = field(default_factory=CtrmLimits)


@dataclass(frozen=True)
class DaemonConfig:
    """All that a run can be told. Times in seconds unless they say otherwise.

    generations, max_evaluations, max_seconds: where it stops, at the boundary of a generation; None is no limit.
    mode: `live` changes the body for good, `trial` under a lease of `lease_ms` first, `file` is for a FileBody.
    barren_generations: so many without an accepted move, and the search goes on in the next tier.
    kernel_every: every so many generations a kernel is searched for, for `kernel_generations`; 0 is never.
    kernel_gain: the relative rise of the calibration score that a kernel must exceed.
    snapshot_every: so many accepted moves at most are to be made again after an interruption.
    watched_pairs: of the watch data, embedded by the body after each move and compared to the bit.
    period_s: of the metabolism; every `pulse_cycles` cycles there is a substrate pulse.
    connect_s: what connecting may take; after `fallback_after` failures in a row V6 takes over.
    takeover: a body whose weights are none of the run's is brought to the run's instead of refused.
    """

    generations: int | None = None
    max_evaluations: int | None = None
    max_seconds: float | None = None
    mode: Mode = "trial"
    lease_ms: int = 60_000
    admission: Admission = field(default_factory=Admission)
    barren_generations: int = 20
    kernel_every: int = 0
    kernel_generations: int = 10
    kernel_gain: float = 0.01
    snapshot_every: int = 16
    watched_pairs: int = 8
    period_s: float = 1.0
    pulse_cycles: int = 60
    connect_s: float = 10.0
    fallback_after: int = 3
    takeover: bool = False

    def __post_init__(self) -> None:
        wrong = [
            says
            for holds, says in (
                (self.mode in MODES, f"the mode is not one of {', '.join(MODES)}"),
                (self.generations is None or self.generations >= 0, "the number of generations is below 0"),
                (self.max_evaluations is None or self.max_evaluations >= 0, "the number of evaluations is below 0"),
                (self.max_seconds is None or self.max_seconds >= 0, "the time is below 0"),
                (self.lease_ms >= 1000, "the lease is shorter than a second"),
                (self.watched_pairs >= 2, "fewer than two pairs are watched"),
                (self.period_s > 0 and self.pulse_cycles >= 1, "the metabolism has no period"),
                (min(self.barren_generations, self.snapshot_every, self.kernel_generations) >= 1, "a count is below 1"),
                (self.fallback_after >= 1 and self.connect_s > 0, "connecting has no attempts or no time"),
                (self.kernel_every >= 0, "kernels are searched for every less than 0 generations"),
            )
            if not holds
        ]
        if wrong:
            raise InputError(f"the daemon cannot run so: {wrong[0]}", remedy="correct its settings")

    def deciding(self) -> dict[str, Any]:
        """The settings that what is decided depends on: a run goes on with the same ones only."""
        names = ("admission", "barren_generations", "kernel_every", "kernel_generations", "kernel_gain")
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
