"""What a daemon tells of itself: one frozen dataclass for each thing that happens. Pure.

A daemon hands each to its listeners in the order in which they happen: a log writes them as JSON lines, the command
line draws them. Nothing else leaves a daemon, and no listener can change what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on: in `generation`, with so many moves accepted before."""

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
    """A body answers: its executable's build, the generation of its weights, SHA-256 of the model (hex)."""

    body: str
    build: str
    generation: int
    model: str


@dataclass(frozen=True)
class ConnectionFailed:
    """No body answers; the next try is in `retry_s` seconds."""

    body: str
    why: str
    attempt: int
    retry_s: float


@dataclass(frozen=True)
class Metabolism:
    """The counts of one metabolism cycle; `energy` None when the body tells none."""

    cycle: int
    pixels_processed: int
    generation: int
    energy: int | None
    worker_restarts: int
    heartbeat_p99_us: int | None


@dataclass(frozen=True)
class Pulse:
    """A substrate pulse: the runtime ran a known program, as it should have."""

    cycle: int
    steps: int
    milliseconds: float
    as_expected: bool


@dataclass(frozen=True)
class Steered:
    """Statistics changed how the daemon works: `what` is rate, tier or backoff."""

    what: str
    text: str


@dataclass(frozen=True)
class Evaluated:
    """One proposal was scored; None when it could not be, and `reason` says why."""

    proposal: str
    score: float | None
    reason: str
    seconds: float
    evaluations: int


@dataclass(frozen=True)
class Judged:
    """CTRM's judgement of a move; `refusal` names the finding, None when there is none."""

    move: str
    confidence: float
    refusal: str | None
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Applied:
    """A move is live: the body's generation, the digest of its model, how long the body took."""

    move: str
    generation: int
    model: str
    milliseconds: float
    changed_bytes: int


@dataclass(frozen=True)
class Acknowledged:
    """The body took the neural interrupt after an evolution event."""

    vector: int
    latency_us: int


@dataclass(frozen=True)
class Promoted:
    """A trial was watched and kept."""

    move: str
    generation: int


@dataclass(frozen=True)
class RolledBack:
    """A trial was taken back, or ran out: why."""

    move: str
    generation: int
    why: str


@dataclass(frozen=True)
class KernelInjected:
    """An evolved kernel went into a slot: its score before and after on the calibration data."""

    slot: int
    before: float
    after: float
    generation: int


@dataclass(frozen=True)
class GenerationEnded:
    """A generation of the search is over: what became of it, and the parent's score on the calibration data."""

    generation: int
    accepted: bool
    fitness: float
    evaluations: int
    seconds: float
    seconds_outside_evaluation: float
    model: str


@dataclass(frozen=True)
class Recovered:
    """The body or the shadow is at the run's state again: what it took (`nothing`, `rollback`, `synchronised`)."""

    what: str
    how: str
    generation: int
    seconds: float


@dataclass(frozen=True)
class FellBack:
    """No runtime answers: V6 goes on with files in `folder`."""

    folder: str


@dataclass(frozen=True)
class Returned:
    """A runtime answers again: V7 goes on."""

    after_s: float


@dataclass(frozen=True)
class Alarm:
    """Something keeps failing and a person should look."""

    what: str
    text: str


@dataclass(frozen=True)
class Stopped:
    """The run is over, or paused in order: why, and the digest of the weights it leaves."""

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
    | Recovered
    | FellBack
    | Returned
    | Alarm
    | Stopped
)

Listener: TypeAlias = Callable[[DaemonEvent], None]
