"""Progress of a command, on stderr: stdout holds only the answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from builder.cache import Progress
from builder.progress import Reporter, make_reporter

# Seconds; shorter work is not reported.
PATIENCE_S = 1.0


def stderr_reporter() -> Reporter:
    """Bars on a capable terminal, else plain lines."""
    return make_reporter(sys.stderr, dumb=os.environ.get("TERM", "dumb") == "dumb")


@contextmanager
def reported(name: str) -> Iterator[Progress]:
    """A progress callback for one piece of work, silent unless it takes longer than a second."""
    reporter = stderr_reporter()
    started = time.monotonic()
    shown = False

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - started > PATIENCE_S:
            shown = True
            reporter.progress(name, phase, done, total)

    try:
        yield progress
    except BaseException as error:
        if shown:
            reporter.fail(name, str(error))
        raise
    if shown:
        reporter.done(name, time.monotonic() - started)
