"""The body's metabolism: its counters once a cycle, a regular pulse, and the reactions to both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from evolution.daemon.config import DaemonConfig
from evolution.daemon.events import FULL_ENERGY, DaemonEvent, Metabolism, Pulse, Steered
from evolution.daemon.follower import BodyError, Follower
from vboot.protocol.messages import Stats
from vboot.weights.pixels import assemble

_PULSE = assemble("f32 1 2 3\nINPUT f32\nDUP\nADD\nOUT\n")
_EXPECTED = bytes.fromhex("0000004000008040" + "0000c040")
"""2, 4 and 6 as little-endian f32."""
LOW_ENERGY, ENOUGH_ENERGY = FULL_ENERGY // 5, FULL_ENERGY // 2
_LONGEST_REST_S = 30.0
_RISE = 1.25
_LATE_SHARE = 0.1
_SEARCHING = 10
"""The time between two cycles is at least so many times the time that a machine takes to answer."""
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


@dataclass(frozen=True)
class Pace:
    """The pause before each evaluation, in seconds, that keeps the body's heartbeat on time; its last lateness."""

    pause_s: float = 0.0
    late_us: int | None = None

    def after(self, stats: Stats) -> Pace:
        """The pace after these counters: slower if the heartbeat's lateness has risen above a tenth of its period."""
        late, period_us = stats.heartbeat_late_us.p99, stats.heartbeat_period_ms * 1000
        rises = self.late_us is not None and late > _RISE * self.late_us and late > _LATE_SHARE * period_us
        if rises:
            pause = min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, 2 * self.pause_s))
        else:
            pause = self.pause_s / 2 if self.pause_s > _SHORTEST_PAUSE_S else 0.0
        return Pace(pause, late)


class Cycles:
    """Runs cycles when they are due. Raises what the follower raises."""

    def __init__(
        self,
        follower: Follower,
        config: DaemonConfig,
        *,
        tell: Callable[[DaemonEvent], None],
        wait: Callable[[float], bool],
    ) -> None:
        """`wait` pauses for some seconds and returns False if the daemon is to stop."""
        self._follower = follower
        self._config = config
        self._tell = tell
        self._wait = wait
        self._cycle = 0
        self._due = 0.0
        self.pace = Pace()

    def tick(self) -> bool:
        """Run a cycle if it is due; whether another client or a restart has changed the body since the last one."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._cycle += 1
        stats = self._look()
        # A machine that is busy with other clients answers late: most of the time is for the search.
        self._due = now + max(self._config.period_s, _SEARCHING * (time.monotonic() - now))
        if self._cycle % self._config.pulse_cycles == 0:
            self._pulse()
        pace = self.pace.after(stats)
        if pace.pause_s > self.pace.pause_s:
            text = f"heartbeats are {pace.late_us} us late, pausing {pace.pause_s:g} s before each evaluation"
            self._tell(Steered("backoff", text))
        self.pace = pace
        if stats.energy < LOW_ENERGY:
            self._rest(stats.energy)
        return self._follower.was_disturbed(stats.generation)

    def _look(self) -> Stats:
        stats = self._follower.stats()
        self._tell(
            Metabolism(
                self._cycle,
                stats.pixels_processed,
                stats.generation,
                stats.energy,
                stats.worker.restarts,
                stats.heartbeat_late_us.p99,
            )
        )
        return stats

    def _rest(self, energy: int) -> None:
        """Wait until the energy suffices for several moves."""
        self._tell(Steered("rate", f"energy is {energy}, waiting until it is {ENOUGH_ENERGY}"))
        until = time.monotonic() + _LONGEST_REST_S
        while time.monotonic() < until and self._wait(self._config.period_s):
            self._cycle += 1
            if self._look().energy >= ENOUGH_ENERGY:
                return

    def _pulse(self) -> None:
        started = time.monotonic()
        run = self._follower.pulse(_PULSE)
        as_expected = run.output == _EXPECTED
        self._tell(Pulse(self._cycle, run.steps, (time.monotonic() - started) * 1000, as_expected))
        if not as_expected:
            raise BodyError(
                f"{self._follower.name} gives a wrong result for a known program", remedy="check the machine's hardware"
            )
