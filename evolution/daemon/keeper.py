"""Keeps the connection to the body: reconnects with growing delays, falls back to files, and returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from evolution.daemon.config import DaemonConfig
from evolution.daemon.events import BEHIND, Alarm, ConnectionFailed, DaemonEvent, FellBack, Returned
from evolution.daemon.follower import BodyError, Course, Follower
from evolution.daemon.metabolism import Cycles
from evolution.daemon.reconcile import ForeignWeightsError
from vboot.errors import InputError, ToolError, VbootError
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.messages import Stats
from vboot.protocol.tables import Code

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 60.0
_LONGEST_REFUSAL_S = 5.0
_LAST_TRIES = 3
_ALARM_AFTER = 3
_PASSING = (Code.STALE_GENERATION, Code.UNKNOWN_GENERATION, Code.NO_ENERGY, Code.BUSY)
"""Refusals that may disappear when the request is repeated later."""


class Files(Protocol):
    """Files that the run continues with while no machine answers."""

    @property
    def folder(self) -> str:
        """The folder of the files."""

    def publish(self, course: Course) -> None:
        """Write the run's current weights. Raises VbootError."""


def retry_after(failures: int) -> float:
    """Seconds to wait after this many failures in a row: doubling up to a maximum, without randomness."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 16))


class Keeper:
    """Keeps a machine at the run's weights through a follower, or continues with files."""

    def __init__(
        self,
        follower: Follower,
        config: DaemonConfig,
        files: Files,
        *,
        tell: Callable[[DaemonEvent], None],
        wait: Callable[[float], bool],
    ) -> None:
        """`wait` pauses for some seconds and returns False if the daemon is to stop."""
        self._follower = follower
        self._config = config
        self._files = files
        self._tell = tell
        self._wait = wait
        self._cycles = Cycles(follower, config, tell=tell, wait=wait)
        self._failures = 0
        self._refusals = 0
        self._why = ""
        self._next_try = 0.0
        self._lost_at: float | None = None
        self._fell_back = False

    def connect(self) -> bool:
        """One attempt to connect. Failures become events; raises BodyError for those that a retry cannot solve."""
        try:
            self._follower.connect()
        except BodyError:
            raise
        except VbootError as error:
            if isinstance(error, RequestRefusedError) and error.code == Code.BUSY:
                self._put_off(error)  # other clients have all its connections
            else:
                self._lost(error)
            return False
        return True

    def tick(self, course: Callable[[], Course]) -> None:
        """Between two evaluations: run a metabolism cycle, or try to reconnect a lost body."""
        if self._follower.is_connected and not self._fell_back:
            try:
                disturbed = self._cycles.tick()
            except (BodyError, ForeignWeightsError):
                raise
            except MachineError as error:
                self._lost(error)
                return
            if disturbed or (self._refusals and time.monotonic() >= self._next_try):
                self._try(course())
            if self._cycles.pace.pause_s:
                self._wait(self._cycles.pace.pause_s)
        elif time.monotonic() >= self._next_try:
            self._try(course())

    def follow(self, course: Course) -> None:
        """Bring the body to the run's current weights, or the files if no body answers.

        Raises BodyError and ForeignWeightsError for failures that a retry cannot solve. Returns early when the daemon
        is to stop, and when the body answers but keeps refusing, as when other clients use it: it then follows later.
        """
        while not self._fell_back:
            if self._failures >= self._config.fallback_after:
                self._fall_back()
                break
            pause = self._next_try - time.monotonic()
            if pause > 0 and (self._refuses or not self._wait(pause)):
                return
            if self._try(course) or not self._wait(0.0):
                return
        try:
            self._files.publish(course)
        except (InputError, ToolError) as error:
            self._tell(Alarm("files", str(error)))

    def finish(self, course: Course) -> None:
        """At the end of the run: give a body that answers but refuses some more tries."""
        for _ in range(_LAST_TRIES):
            pause = max(0.0, self._next_try - time.monotonic())
            if self._fell_back or not self._refusals or not self._wait(pause) or self._try(course):
                return
        if self._refusals and not self._fell_back:
            self._tell(Alarm(BEHIND, f"{self._follower.name} does not have the run's latest weights: {self._why}"))

    def stats(self) -> Stats | None:
        """The body's counters; None when it does not answer."""
        if not self._follower.is_connected:
            return None
        try:
            return self._follower.stats()
        except MachineError as error:
            self._lost(error)
            return None

    def close(self) -> None:
        """Disconnect; the body keeps running."""
        self._follower.disconnect()

    def _try(self, course: Course) -> bool:
        """Connect and follow; whether both succeeded."""
        if not self.connect():
            return False
        try:
            self._follower.follow(course)
        except (BodyError, ForeignWeightsError):
            raise
        except RequestRefusedError as refusal:
            if refusal.code not in _PASSING:
                raise BodyError(f"{self._follower.name} refuses mutations: {refusal.what}") from refusal
            self._put_off(refusal)
            return False
        except MachineError as error:
            self._lost(error)
            return False
        self._is_back()
        return True

    def _put_off(self, refusal: RequestRefusedError) -> None:
        """Retry later: the body answers but is busy, or its generation has changed."""
        self._refusals += 1
        self._why = refusal.what
        delay = retry_after(self._refusals)
        if refusal.retry_ms is not None:
            delay = max(delay, refusal.retry_ms / 1000)
        delay = min(_LONGEST_REFUSAL_S, delay)
        at_once = refusal.code in (Code.STALE_GENERATION, Code.UNKNOWN_GENERATION) and not self._refuses
        self._next_try = time.monotonic() + (0.0 if at_once else delay)
        if self._refusals == _ALARM_AFTER:
            text = f"{self._follower.name} does not take the run's weights yet ({refusal.what}); it gets them later"
            self._tell(Alarm("body", text))

    @property
    def _refuses(self) -> bool:
        """Whether the body answers but refuses again and again: the search does not wait for it then."""
        return self._refusals >= self._config.fallback_after

    def _lost(self, error: VbootError) -> None:
        self._follower.disconnect()
        self._failures += 1
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        delay = retry_after(self._failures)
        self._next_try = time.monotonic() + delay
        self._tell(ConnectionFailed(self._follower.name, error.what, self._failures, delay))
        self._alarm(error.what)

    def _alarm(self, why: str) -> None:
        if self._failures == _ALARM_AFTER:
            self._tell(Alarm("body", f"{self._failures} failures in a row: {why}"))

    def _fall_back(self) -> None:
        self._fell_back = True
        self._tell(FellBack(self._files.folder))

    def _is_back(self) -> None:
        if self._fell_back:
            self._tell(Returned(time.monotonic() - (self._lost_at or time.monotonic())))
        self._failures, self._refusals, self._lost_at, self._fell_back = 0, 0, None, False
