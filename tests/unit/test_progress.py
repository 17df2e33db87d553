from __future__ import annotations

import io
import os
import pty
import re
import time

from builder.progress import PlainReporter, Reporter, TerminalReporter, make_reporter


def build(reporter: Reporter) -> None:
    reporter.skip("executable", "up to date")
    reporter.progress("compose", "hashing model.gguf", 1, 4)
    reporter.start("compose", "building, because type has changed")
    for done in range(1000):
        reporter.progress("compose", "write", done, 1000)
    reporter.done("compose", 1.26)
    reporter.start("rts", "building, because first [bold]time[/bold]")
    reporter.fail("rts", "no")


def test_plain_lines_show_every_event_and_no_phase_twice() -> None:
    stream = io.StringIO()
    build(PlainReporter(stream, clock=lambda: 0.0))
    assert stream.getvalue().splitlines() == [
        "executable: up to date",
        "compose: building, because type has changed",
        "compose: done in 1.3 s",
        "rts: building, because first [bold]time[/bold]",
        "rts: failed",
    ]


def test_a_long_phase_reports_progress_every_few_seconds() -> None:
    now = 0.0
    stream = io.StringIO()
    reporter = PlainReporter(stream, clock=lambda: now)
    for second in range(20):
        now = float(second)
        reporter.progress("compose", "write", second, 40)
        reporter.progress("compose", "write", second, 40)
    assert stream.getvalue().splitlines() == [f"compose: write {percent}%" for percent in (2, 15, 27, 40)]


def test_phase_that_cannot_count_is_named_at_once() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, clock=lambda: 0.0)
    for phase in ("compiling sha2", "compiling sha2", "compiling vector_boot"):
        reporter.progress("executable", phase, 0, 0)
    assert stream.getvalue() == "executable: compiling sha2\nexecutable: compiling vector_boot\n"


def visible(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def test_terminal_keeps_the_final_lines() -> None:
    stream = io.StringIO()
    build(TerminalReporter(stream))
    text = visible(stream.getvalue())
    for line in ("executable: up to date", "compose: done in 1.3 s", "rts: failed"):
        assert line in text
    assert "[bold]time[/bold]" in text


def test_terminal_is_redrawn_at_most_ten_times_a_second() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    started = time.monotonic()
    done = redrawn = 0
    while redrawn < 3:
        for _ in range(1000):
            done += 1
            reporter.progress("compose", "write", done, 10**9)
        redrawn = visible(stream.getvalue()).count("compose: write")
        # A count, not a time: a busy host makes fewer updates between two redraws, never more.
        assert done < 10**8, f"{redrawn} redraws in {done} updates"
    elapsed = time.monotonic() - started
    reporter.done("compose", 0.5)
    assert redrawn <= 10 * elapsed + 3, f"{redrawn} redraws in {elapsed} s, {done} updates"


def test_terminal_starts_over_with_each_phase() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    reporter.progress("compose", "write", 100, 100)
    reporter.progress("compose", "compiling", 0, 0)
    until = time.monotonic() + 120
    while "compose: compiling" not in visible(stream.getvalue()):
        assert time.monotonic() < until, "not redrawn"
        time.sleep(0.01)
    reporter.done("compose", 0.1)
    last = visible(stream.getvalue()).split("compose: compiling")[1]
    assert "100%" not in last


def test_bars_on_a_terminal_only() -> None:
    assert isinstance(make_reporter(io.StringIO()), PlainReporter)
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, os.fdopen(controller):
        assert isinstance(make_reporter(stream), TerminalReporter)
        assert isinstance(make_reporter(stream, dumb=True), PlainReporter)
