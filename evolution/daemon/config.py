"""The settings of a run: the search, the admission of moves, the treatment of the body. Pure."""

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
    """A strategy by its registry name, and its tiers, searched in turn when one yields no more moves."""

    name: str
    tiers: tuple[Tier, ...]
    seed: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tiers:
            raise InputError("the search has no tier", remedy="give one or more")

    def begin(self, terrain: Sequence[TensorInfo], stage: int) -> Strategy:
        """A new search in the tier of this stage, with the stage's own seed. Raises InputError."""
        seed = self.seed
        if stage:
            seed = int(hashlib.sha256(f"{seed}/{stage}".encode()).hexdigest(), 16) % _SEEDS
        return make(self.name, terrain, self.tier(stage), seed, **self.options)

    def tier(self, stage: int) -> Tier:
        """The tier of a stage; after the last tier follows the first again."""
        return self.tiers[stage % len(self.tiers)]

    def restore(self, state: bytes, terrain: Sequence[TensorInfo]) -> Strategy:
        """The search restored from a state. Raises InputError."""
        return restore(state, terrain)


@dataclass(frozen=True)
class Admission:
    """The conditions that a move must meet beyond CTRM, the checks of a candidate mutation (`evolution.ctrm`).

    least_gain: the relative rise of the calibration score that a move must exceed; negative values allow a loss.
    most_lost: how far the score may fall below the run's best calibration score, relative: small losses would add up.
    watch_lost: the allowed relative fall of the score on the watch data; it has few texts, so this is a coarse check.
    """

    least_gain: float = 0.0
    most_lost: float = 0.02
    watch_lost: float = 0.1
    limits: CtrmLimits = field(default_factory=CtrmLimits)


@dataclass(frozen=True)
class DaemonConfig:
    """The options of a run. Times are in seconds unless their name says otherwise.

    generations, max_evaluations, max_seconds: limits, checked between generations; None is no limit. The seconds are
    those of this invocation since its first evaluation began, and end it after one generation at the earliest.
    mode: `live` changes the body permanently, `trial` first under a lease of `lease_ms`, `file` is for a FileBody.
    barren_generations: after this many generations without an accepted move the search continues in the next tier.
    kernel_every: a kernel is searched for every this many generations, for `kernel_generations`; 0 is never.
    kernel_gain: the relative rise of the calibration score that a kernel must exceed.
    snapshot_every: at most this many accepted moves are applied again after an interruption.
    watched_pairs: pairs of the watch data that the body embeds after each move; the result is compared to the bit.
    period_s: length of a metabolism cycle; every `pulse_cycles` cycles a pulse runs a known program on the body.
    connect_s: timeout for connecting; after `fallback_after` failures in a row EvolutionDaemonV6 takes over.
    takeover: a body with weights that are not from this run is overwritten instead of refused.
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
                (self.period_s > 0 and self.pulse_cycles >= 1, "period_s is not above 0 or pulse_cycles is below 1"),
                (min(self.barren_generations, self.snapshot_every, self.kernel_generations) >= 1, "a count is below 1"),
                (
                    self.fallback_after >= 1 and self.connect_s > 0,
                    "fallback_after is below 1 or connect_s is not above 0",
                ),
                (self.kernel_every >= 0, "kernel_every is below 0"),
            )
            if not holds
        ]
        if wrong:
            raise InputError(f"the daemon's settings are not valid: {wrong[0]}", remedy="correct them")

    def deciding(self) -> dict[str, Any]:
        """The settings that decisions depend on: a run can only be resumed with the same ones."""
        names = ("admission", "barren_generations", "kernel_every", "kernel_generations", "kernel_gain")
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
