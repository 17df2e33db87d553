"""How long a run will still take until its first limit: an estimate from the generations and evaluations so far. Pure.

All limits are checked between generations, so the estimate is one of whole generations.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from evolution.daemon.config import DaemonConfig

_RECENT = 8
"""The estimate follows the latest generations, as the load of a host changes."""


@dataclass
class Remaining:
    """Estimates the time left. Times are in seconds since the evaluations of this invocation began."""

    config: DaemonConfig
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _began: float = 0.0
    _evaluations_before: int = 0

    def begin(self, now: float, evaluations: int) -> None:
        """A generation begins, after this number of evaluations of the run."""
        self._began, self._evaluations_before = now, evaluations

    def end(self, now: float) -> None:
        """The generation has ended."""
        self._durations.append(now - self._began)

    def left(self, now: float, *, generation: int, evaluations: int, size: int, between: bool = False) -> float | None:
        """Seconds left to the first limit; None without a limit, or before the first evaluation.

        `generation` and `evaluations`: as many have ended. `size`: the evaluations of a generation. `between`: no
        generation is being worked on.
        """
        each = self._generation_seconds(now, evaluations, size)
        if each is None:
            return None
        since, done = (now, evaluations) if between else (self._began, self._evaluations_before)
        config = self.config
        generations: list[float] = []
        if config.generations is not None:
            generations.append(config.generations - generation)
        if config.max_evaluations is not None:
            generations.append(math.ceil((config.max_evaluations - done) / max(1, size)))
        if config.max_seconds is not None:
            generations.append(math.ceil((config.max_seconds - since) / each) if each else 0)
        return min((max(0.0, count * each - (now - since)) for count in generations), default=None)

    def _generation_seconds(self, now: float, evaluations: int, size: int) -> float | None:
        """The time that a generation takes: the mean of the latest, or an estimate from the first one so far."""
        if self._durations:
            return sum(self._durations) / len(self._durations)
        done = evaluations - self._evaluations_before
        return (now - self._began) * max(1.0, size / done) if done > 0 else None
