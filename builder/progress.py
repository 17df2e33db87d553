"""Shows the progress of a build: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

UPDATES_PER_SECOND = 10
# Without a terminal a line every few seconds shows that a long phase still runs.
PLAIN_INTERVAL_S = 5.0
# A phase with a total that ends sooner gets no line.
FIRST_LINE_DELAY_S = 1.0


class Reporter(Protocol):
    """Receives the events of a build, step by step. `total` 0 means unknown."""

    def start(self, step: str, reason: str) -> None:
        """The step starts; `reason` says what it does and why."""

    def progress(self, step: str, phase: str, done: int, total: int) -> None:
        """The step is in this phase. May be called thousands of times a second, also before `start`."""

    def skip(self, step: str, reason: str) -> None:
        """The step need not run, for this reason."""

    def done(self, step: str, seconds: float) -> None:
        """The step has finished."""

    def fail(self, step: str, error: str) -> None:
        """The step has failed; the error itself is raised to the caller."""


class PlainReporter:
    """One line per event. A phase prints one when it begins (later if it has a total), then every few seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._phase = ("", "")
        self._next_line = 0.0

    def start(self, step: str, reason: str) -> None:
        """Print that the step runs, and why."""
        self._print(f"{step}: {reason}")

    def progress(self, step: str, phase: str, done: int, total: int) -> None:
        """Print a new phase, or the state of a long one."""
        now = self._clock()
        if (step, phase) != self._phase:
            self._phase = (step, phase)
            # A phase without a total may report only once, so it is printed at once.
            self._next_line = now + FIRST_LINE_DELAY_S if total else now
        if now >= self._next_line:
            self._next_line = now + PLAIN_INTERVAL_S
            self._print(f"{step}: {phase} {100 * done // total}%" if total else f"{step}: {phase}")

    def skip(self, step: str, reason: str) -> None:
        """Print that the step is skipped, and why."""
        self._print(f"{step}: {reason}")

    def done(self, step: str, seconds: float) -> None:
        """Print how long the step took."""
        self._print(f"{step}: done in {seconds:.1f} s")

    def fail(self, step: str, error: str) -> None:
        """Print that the step failed; the command line prints the error."""
        self._print(f"{step}: failed")

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class TerminalReporter:
    """A bar under the finished lines, redrawn at most ten times a second by rich."""

    def __init__(self, stream: TextIO) -> None:
        # Imported here because importing rich takes 80 ms.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._make_bars: Callable[[], Bars] = lambda: Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=UPDATES_PER_SECOND,
            transient=True,
        )
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._description = ""

    def start(self, step: str, reason: str) -> None:
        """Show the step and why it runs."""
        self._update(f"{step}: {reason}", 0, 0)

    def progress(self, step: str, phase: str, done: int, total: int) -> None:
        """Move the bar; without a total it pulses."""
        self._update(f"{step}: {phase}", done, total)

    def skip(self, step: str, reason: str) -> None:
        """Leave a line for the skipped step."""
        self._finish(f"{step}: {reason}")

    def done(self, step: str, seconds: float) -> None:
        """Leave a line for the finished step."""
        self._finish(f"{step}: done in {seconds:.1f} s")

    def fail(self, step: str, error: str) -> None:
        """Leave a line for the failed step; the command line prints the error."""
        self._finish(f"{step}: failed")

    def _update(self, description: str, done: int, total: int) -> None:
        if self._bars is None:
            self._bars = self._make_bars()
            self._bars.start()
        # rich cannot remove the total of a task, so each phase gets its own task.
        if self._task is None or description != self._description:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(description, total=total or None, amount="")
            self._description = description
        self._bars.update(self._task, completed=done, amount=f"{100 * done // total}%" if total else "")

    def _finish(self, line: str) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
        self._console.print(line, markup=False)


def make_reporter(stream: TextIO, *, dumb: bool = False) -> Reporter:
    """The reporter for the stream; `dumb` forces plain lines (TERM=dumb, --json)."""
    if stream.isatty() and not dumb:
        return TerminalReporter(stream)
    return PlainReporter(stream)
