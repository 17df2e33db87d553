"""A run as lines of text, one for each important event, for logs and terminals without a live view."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from evolution.daemon.events import (
    Acknowledged,
    Alarm,
    ConnectionFailed,
    DaemonEvent,
    Evaluated,
    FellBack,
    Metabolism,
    Progress,
    Pulse,
    Recovered,
    Returned,
    RolledBack,
)
from evolution.daemon.log import text_of
from vboot.text import printable

COUNTS_EVERY_S = 10.0
"""Between two lines of counts or of progress, so that other events stay visible."""


class PlainLines:
    """A listener that writes a line for each important event."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next: dict[type[DaemonEvent], float] = {}

    def __call__(self, event: DaemonEvent) -> None:
        """Write one event."""
        if isinstance(event, Metabolism | Progress):
            now, kind = self._clock(), type(event)
            if now < self._next.get(kind, now):
                return
            self._next[kind] = now + COUNTS_EVERY_S
        elif isinstance(event, Acknowledged) or (isinstance(event, Evaluated) and event.score is not None):
            return
        self._stream.write(f"evolve: {shown(event)}\n")
        self._stream.flush()


def shown(event: DaemonEvent) -> str:
    """The event's line with unprintable characters escaped: names and reasons may come from a machine."""
    return printable(text_of(event))


def is_trouble(event: DaemonEvent) -> bool:
    """Whether something failed or recovered, so that a live view leaves a permanent line."""
    match event:
        case Pulse():
            return not event.as_expected
        case Recovered():
            return has_changed(event)
        case Alarm() | ConnectionFailed() | FellBack() | Returned() | RolledBack():
            return True
    return False


def has_changed(event: Recovered) -> bool:
    """Whether weights had to be restored. A body that has the run's weights already also emits the event."""
    return event.what != "body" or event.how != "nothing"
