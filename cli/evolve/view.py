"""A live view of a run on a terminal: the fitness curve, the search, and the body."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cli.evolve.curve import braille_curve
from cli.evolve.lines import is_trouble, shown
from cli.evolve.tally import Tally
from evolution.daemon.events import FULL_ENERGY, DaemonEvent
from evolution.daemon.log import spoken, text_of
from vboot.text import printable

UPDATES_PER_SECOND = 8
_CURVE_ROWS = 6
_CURVE_MOST = 100
_SMALL_CURVE = 20
_LABEL = 12


class LiveView:
    """A listener that redraws the state of a run, and prints a permanent line for each failure."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = Tally()
        self._clock = clock
        self._since = clock()
        # A separate thread redraws the view, so that its clock advances during long evaluations. The lock is re-entrant
        # because a signal handler may write while an event is counted.
        self._lock = threading.RLock()
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(
            console=self._console, get_renderable=self._draw, refresh_per_second=UPDATES_PER_SECOND, auto_refresh=True
        )

    def __call__(self, event: DaemonEvent) -> None:
        """Show one event."""
        with self._lock:
            self._tally.add(event)
        if is_trouble(event):
            self._console.print(Text(shown(event), style="yellow"))

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _draw(self) -> Group:
        with self._lock:
            return draw(self._tally, width=self._console.width, seconds=self._clock() - self._since)


def draw(tally: Tally, *, width: int, seconds: float) -> Group:
    """The view of a tally on a terminal `width` characters wide, `seconds` after its start."""
    rows = [_heading(tally, seconds), _row("connection", tally.connection), *_curve(tally, width)]
    rows += [_row(label, text) for label, text in (*_search_rows(tally), *_body_rows(tally)) if text]
    if tally.judged is not None:
        style = "green" if tally.judged.refusal is None else "red"
        rows.append(_row("last change", text_of(tally.judged), style=style))
    rows += [_row("alarm", f"{alarm.what}: {alarm.text}", style="bold red") for alarm in tally.alarms]
    if tally.stopped is not None:
        rows.append(_row("stopped", tally.stopped.why))
    return Group(*rows)


def _heading(tally: Tally, seconds: float) -> Text:
    minutes, rest = divmod(int(seconds), 60)
    started = tally.started
    what = "starting" if started is None else f"{started.strategy}, tier {started.tier}, seed {started.seed}"
    return _text(f"evolve {minutes // 60}:{minutes % 60:02}:{rest:02}  {what}", style="bold")


def _curve(tally: Tally, width: int) -> Iterable[Text]:
    if not tally.fitness:
        yield _row("fitness", "no generation has ended yet")
        return
    first, last = tally.fitness[0], tally.fitness[-1]
    yield _row("fitness", f"{last:.5f}, from {first:.5f}: {last - first:+.5f}")
    for text in braille_curve(tally.fitness, width=max(1, min(_CURVE_MOST, width - _LABEL - 1)), height=_CURVE_ROWS):
        yield _row("", text, style="cyan")


def _search_rows(tally: Tally) -> Iterable[tuple[str, str]]:
    rate = tally.recent_evaluations_per_second
    shown_rate = "" if rate is None else f", {rate:.1f}/s"
    yield "generation", f"{tally.generation}; {tally.evaluations} evaluations{shown_rate}"
    if tally.left_s is not None:
        yield "time left", f"about {spoken(tally.left_s)}"
    if tally.acceptance is not None:
        share = f"{tally.moves_accepted} of {tally.generations} generations accepted a change ({tally.acceptance:.0%})"
        yield "accepted", f"{share}, {tally.moves_refused} not accepted, {tally.rolled_back} taken back"
    if tally.share_outside_evaluation is not None:
        yield "overhead", f"{tally.share_outside_evaluation:.1%} of the time outside evaluation"
    yield "adapted", tally.steered


def _body_rows(tally: Tally) -> Iterable[tuple[str, str]]:
    if tally.median_latency_ms is not None:
        interrupt = "" if tally.interrupt_us is None else f"; interrupt {tally.interrupt_us / 1000:.2f} ms"
        yield "apply", f"{_small(tally.latencies_ms)} {tally.median_latency_ms:.1f} ms{interrupt}"
    if tally.energy is not None:
        yield "energy", f"{_small(tally.energies)} {tally.energy} of {FULL_ENERGY}"
    if tally.pixels_processed is not None:
        kernels = f"; {tally.kernels} kernels injected" if tally.kernels else ""
        done = f"{tally.pixels_processed} pixel instructions run"
        yield "machine", f"weights of generation {tally.body_generation}; {done}{kernels}"
    yield "recovered", f"{tally.recovered} times" if tally.recovered else ""


def _small(values: Iterable[float]) -> str:
    """The latest values as a curve of one line."""
    return braille_curve(list(values)[-2 * _SMALL_CURVE :], width=_SMALL_CURVE, height=1)[0]


def _row(label: str, text: str, *, style: str = "") -> Text:
    row = _text(f"{label:>{_LABEL}} ", style="dim")
    row.append(printable(text), style=style or "not dim")
    return row


def _text(text: str, *, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
