"""Counts and rates of a run, from its events. Pure: all times come from the events."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cli.evolve.lines import has_changed
from evolution.daemon.events import (
    BEHIND,
    Acknowledged,
    Alarm,
    Applied,
    Connected,
    ConnectionFailed,
    DaemonEvent,
    Evaluated,
    FellBack,
    GenerationEnded,
    Judged,
    KernelInjected,
    Metabolism,
    Progress,
    Promoted,
    Recovered,
    Returned,
    RolledBack,
    Started,
    Steered,
    Stopped,
)

_RECENT = 256


@dataclass
class Tally:
    """Counts of a run, updated by `add`; None means that no event has reported the value yet.

    Rates and shares cover the generations that have ended; interrupted generations are left out, as they are repeated.
    """

    started: Started | None = None
    connection: str = "not connected yet"
    unreached: str | None = None
    """Why the body does not answer, or did not take the latest weights; None if it did, or there is none."""
    body_generation: int | None = None
    generation: int = 0
    generations: int = 0
    moves_accepted: int = 0
    moves_refused: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    seconds_outside: float = 0.0
    scored: int = 0
    fitness: list[float] = field(default_factory=list)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    applied: int = 0
    energy: int | None = None
    energies: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    pixels_processed: int | None = None
    interrupt_us: int | None = None
    rolled_back: int = 0
    kernels: int = 0
    recovered: int = 0
    judged: Judged | None = None
    steered: str = ""
    alarms: deque[Alarm] = field(default_factory=lambda: deque(maxlen=3))
    alarm_count: int = 0
    stopped: Stopped | None = None
    left_s: float | None = None
    """The estimate of the seconds left when it was last made."""
    _scored_now: int = 0
    _applied_in_time: int = 0
    _applied_now: int = 0
    _recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    def add(self, event: DaemonEvent) -> None:
        """Count one more event."""
        self._add_search(event)
        self._add_connection(event)
        self._add_body(event)

    def _add_search(self, event: DaemonEvent) -> None:
        match event:
            case Started():
                self.started, self.generation, self._scored_now = event, event.generation, 0
                self.stopped = self.unreached = None
            case Evaluated():
                self.evaluations = event.evaluations
                if not self._scored_now:
                    self._applied_now = 0  # moves that the body lacked at the start do not count
                self._scored_now += 1
                self._recent_s.append(event.seconds)
            case Judged():
                self.judged = event
                self.moves_refused += event.refusal is not None
                if not self.fitness and event.before is not None:
                    self.fitness.append(event.before)
            case GenerationEnded():
                self.generation = event.generation + 1
                self.generations += 1
                self.moves_accepted += event.accepted
                self.seconds += event.seconds
                self.seconds_outside += event.seconds_outside_evaluation
                self.scored, self._scored_now = self.scored + self._scored_now, 0
                self._applied_in_time, self._applied_now = self._applied_in_time + self._applied_now, 0
                self.fitness.append(event.fitness)
            case Steered():
                self.steered = event.text
            case Progress():
                self.left_s = event.left_s
            case Stopped():
                self.stopped, self.left_s = event, None

    def _add_connection(self, event: DaemonEvent) -> None:
        match event:
            case Connected():
                self.connection, self.body_generation = f"connected to {event.body}", event.generation
                self.unreached = None
            case ConnectionFailed():
                self.connection = f"attempt {event.attempt + 1} in {event.retry_s:.3g} s: {event.why}"
                self.unreached = event.why
            case FellBack():
                self.connection = f"no machine answers; writing files to {event.folder}"
            case Returned():
                self.connection = f"connected again after {event.after_s:.0f} s"
            case Recovered():
                self.recovered += has_changed(event)
            case Alarm():
                self.alarms.append(event)
                self.alarm_count += 1
                if event.what == BEHIND:
                    self.unreached = event.text

    def _add_body(self, event: DaemonEvent) -> None:
        match event:
            case Metabolism():
                self.energy, self.pixels_processed = event.energy, event.pixels_processed
                self.body_generation = event.generation
                if event.energy is not None:
                    self.energies.append(event.energy)
            case Applied():
                self.applied += 1
                self._applied_now += 1
                self.latencies_ms.append(event.milliseconds)
                self.body_generation = event.generation
            case Acknowledged():
                self.interrupt_us = event.latency_us
            case Promoted():
                self.body_generation = event.generation
            case RolledBack():
                self.rolled_back += 1
                self.body_generation = event.generation
            case KernelInjected():
                self.kernels += 1

    @property
    def acceptance(self) -> float | None:
        """The share of generations that accepted a move."""
        return self.moves_accepted / self.generations if self.generations else None

    @property
    def recent_evaluations_per_second(self) -> float | None:
        """The rate of the latest evaluations, without the time between them."""
        return _rate(len(self._recent_s), sum(self._recent_s))

    @property
    def evaluations_per_second(self) -> float | None:
        """Evaluations per second of run time."""
        return _rate(self.scored, self.seconds)

    @property
    def applied_per_second(self) -> float | None:
        """Mutations of the body per second of run time, without those that repeat lost ones."""
        return _rate(self._applied_in_time, self.seconds)

    @property
    def share_outside_evaluation(self) -> float | None:
        """The share of the run time that is not evaluation."""
        return self.seconds_outside / self.seconds if self.seconds > 0 else None

    @property
    def median_latency_ms(self) -> float | None:
        """The median duration of the latest moves applied to the body."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else None

    def describe(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "generations": self.generations,
            "evaluations": self.evaluations,
            "accepted": self.moves_accepted,
            "refused": self.moves_refused,
            "rolled_back": self.rolled_back,
            "kernels_injected": self.kernels,
            "applied": self.applied,
            "acceptance": self.acceptance,
            "seconds": self.seconds,
            "evaluations_per_second": self.evaluations_per_second,
            "applied_per_second": self.applied_per_second,
            "apply_ms": self.median_latency_ms,
            "share_outside_evaluation": self.share_outside_evaluation,
            "recovered": self.recovered,
            "alarms": self.alarm_count,
            "unreached": self.unreached,
        }


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None
