"""Orderly end of a run: the first Ctrl-C or SIGTERM stops it after the current evaluation, a second one at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from cli.errors import TERMINATED, Terminated


@dataclass
class Asked:
    """Which signal asked the run to stop, as what would have ended it; None when none did."""

    by: KeyboardInterrupt | Terminated | None = None


@contextmanager
def stopped_in_order(stop: Callable[[], None]) -> Iterator[Asked]:
    """In this context the first signal calls `stop`. Raises KeyboardInterrupt or Terminated at the second one."""
    asked = Asked()

    def handle(number: int, _frame: FrameType | None) -> None:
        ending = KeyboardInterrupt() if number == signal.SIGINT else Terminated(TERMINATED)
        if asked.by is not None:
            raise ending
        asked.by = ending
        sys.stderr.write("evolve: stopping in order; once more stops at once\n")
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
