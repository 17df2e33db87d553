"""The events of a daemon: one frozen dataclass for each kind. Pure.

A daemon passes each event to its listeners in order: a log writes them as JSON lines, the command line displays them.
Events are a daemon's only output, and listeners cannot change what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

BEHIND = "behind"
"""What an alarm is about when a run ends before its machine took the latest weights."""
FULL_ENERGY = 1000
"""The energy that a machine holds at most."""


@dataclass(frozen=True)
class Started:
    """The run starts or resumes at `generation`, with `accepted` moves accepted before."""

    version: str
    run: str
    strategy: str
    tier: str
    seed: int
    generation: int
    accepted: int
    resumed: bool


@dataclass(frozen=True)
class Connected:
    """The body answers: its executable's build, the generation of its weights, the SHA-256 of the model (hex)."""

    body: str
    build: str
    generation: int
    model: str


@dataclass(frozen=True)
class ConnectionFailed:
    """The body does not answer; the next attempt is in `retry_s` seconds."""

    body: str
    why: str
    attempt: int
    retry_s: float


@dataclass(frozen=True)
class Metabolism:
    """The counts of one metabolism cycle; `energy` is None if the body does not report it."""

    cycle: int
    pixels_processed: int
    generation: int
    energy: int | None
    worker_restarts: int
    heartbeat_p99_us: int | None


@dataclass(frozen=True)
class Pulse:
    """A substrate pulse: the body ran a known program; `as_expected` says whether its result was right."""

    cycle: int
    steps: int
    milliseconds: float
    as_expected: bool


@dataclass(frozen=True)
class Steered:
    """The daemon adapted its behaviour: `what` is rate, tier or backoff."""

    what: str
    text: str


@dataclass(frozen=True)
class Evaluated:
    """One proposal was evaluated; `score` is None if it has none, and then `reason` says why."""

    proposal: str
    score: float | None
    reason: str
    seconds: float
    evaluations: int


@dataclass(frozen=True)
class Judged:
    """The judgement of a move by CTRM (the checks of a candidate mutation) and admission; `refusal` None: accepted."""

    move: str
    confidence: float
    refusal: str | None
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Applied:
    """A move was applied to the body: its new generation, the digest of its model, the duration."""

    move: str
    generation: int
    model: str
    milliseconds: float
    changed_bytes: int


@dataclass(frozen=True)
class Acknowledged:
    """The body acknowledged the neural interrupt after an evolution event."""

    vector: int
    latency_us: int


@dataclass(frozen=True)
class Promoted:
    """A trial passed its watch and was promoted."""

    move: str
    generation: int


@dataclass(frozen=True)
class RolledBack:
    """A trial was rolled back, or its lease expired; `why` gives the reason."""

    move: str
    generation: int
    why: str


@dataclass(frozen=True)
class KernelInjected:
    """An evolved kernel was written to a slot; the score on the calibration data before and after."""

    slot: int
    before: float
    after: float
    generation: int


@dataclass(frozen=True)
class GenerationEnded:
    """A generation of the search ended: whether its move was accepted, and the parent's calibration score."""

    generation: int
    accepted: bool
    fitness: float
    evaluations: int
    seconds: float
    seconds_outside_evaluation: float
    model: str


@dataclass(frozen=True)
class Progress:
    """How far the run is: `seconds` since its evaluations began, and an estimate of those left to the first limit.

    `left_s` is None without a limit, and until there is something to estimate it from.
    """

    generation: int
    evaluations: int
    seconds: float
    left_s: float | None


@dataclass(frozen=True)
class Recovered:
    """The body or the shadow has the run's weights; `how` is what that took: nothing, rollback, or synchronised."""

    what: str
    how: str
    generation: int
    seconds: float


@dataclass(frozen=True)
class FellBack:
    """The body does not answer: EvolutionDaemonV6 continues with files in `folder`."""

    folder: str


@dataclass(frozen=True)
class Returned:
    """The body answers again after the fallback."""

    after_s: float


@dataclass(frozen=True)
class Alarm:
    """Something keeps failing and needs attention."""

    what: str
    text: str


@dataclass(frozen=True)
class Stopped:
    """The run stopped: the reason, and the digest of its weights."""

    why: str
    generation: int
    accepted: int
    evaluations: int
    model: str


DaemonEvent: TypeAlias = (
    Started
    | Connected
    | ConnectionFailed
    | Metabolism
    | Pulse
    | Steered
    | Evaluated
    | Judged
    | Applied
    | Acknowledged
    | Promoted
    | RolledBack
    | KernelInjected
    | GenerationEnded
    | Progress
    | Recovered
    | FellBack
    | Returned
    | Alarm
    | Stopped
)

Listener: TypeAlias = Callable[[DaemonEvent], None]
