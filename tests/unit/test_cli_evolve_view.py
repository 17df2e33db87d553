"""How `vboot evolve` shows a run: the live view on a terminal, plain lines elsewhere, and curves."""

from __future__ import annotations

import io
import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.evolve.curve import braille_curve
from cli.evolve.lines import COUNTS_EVERY_S, PlainLines
from cli.evolve.tally import Tally
from cli.evolve.view import LiveView, draw
from evolution.daemon.events import (
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
    Pulse,
    Recovered,
    Returned,
    RolledBack,
    Started,
    Steered,
    Stopped,
)

MODEL = "ab" * 32
RUN: list[DaemonEvent] = [
    Started("EvolutionDaemonV7 (Rust-Native)", "r1", "antithetic_es", "output", 7, 0, 0, False),
    Connected("bridge", "0123456789ab", 3, MODEL),
    Metabolism(1, 1000, 3, 900, 0, 150),
    Evaluated("0.0", -0.9, "", 0.25, 1),
    Evaluated("0.1", None, "not finite", 0.25, 2),
    Judged("0.move", 0.93, None, -0.9, -0.8),
    Applied("0.move", 4, MODEL, 12.5, 2048),
    Acknowledged(255, 250),
    Promoted("0.move", 4),
    GenerationEnded(0, True, -0.8, 2, 4.0, 1.0, MODEL),
    Metabolism(2, 2000, 4, 640, 0, None),
    Evaluated("1.0", -0.85, "", 0.25, 3),
    Evaluated("1.1", -0.84, "", 0.25, 4),
    Judged("1.move", 0.31, "drift: norm", -0.8, -0.82),
    GenerationEnded(1, False, -0.8, 4, 4.0, 1.0, MODEL),
]


def tally(*events: DaemonEvent) -> Tally:
    counted = Tally()
    for event in events:
        counted.add(event)
    return counted


def drawn(*events: DaemonEvent, width: int = 90, seconds: float = 0.0) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(draw(tally(*events), width=width, seconds=seconds))
    return console.export_text()


def row(text: str, label: str) -> str:
    (found,) = re.findall(rf"^ *{label} (.*?) *$", text, re.MULTILINE)
    return str(found)


def test_the_view_shows_search_and_body() -> None:
    text = drawn(*RUN, seconds=3723)
    assert text.startswith("evolve 1:02:03  antithetic_es, tier output, seed 7")
    assert row(text, "connection") == "connected to bridge"
    assert row(text, "fitness") == "-0.80000, from -0.90000: +0.10000"
    assert row(text, "generation") == "2; 4 evaluations, 4.0/s"
    assert row(text, "accepted") == "1 of 2 generations accepted a change (50%), 1 not accepted, 0 taken back"
    assert row(text, "overhead") == "25.0% of the time outside evaluation"
    assert row(text, "apply").endswith(" 12.5 ms; interrupt 0.25 ms")
    assert row(text, "energy").endswith(" 640 of 1000")
    assert row(text, "machine") == "weights of generation 4; 2000 pixel instructions run"
    assert row(text, "last change") == "change 1.move not accepted (drift: norm); confidence 0.310"


def test_the_view_omits_unknown_values() -> None:
    text = drawn()
    assert row(text, "connection") == "not connected yet"
    assert row(text, "fitness") == "no generation has ended yet"
    assert not re.search("apply|energy|machine|left|alarm|None|nan", text)


@pytest.mark.parametrize(
    ("events", "label", "printed"),
    [
        ([ConnectionFailed("socket", "gone", 2, 1.0)], "connection", "attempt 3 in 1 s: gone"),
        ([FellBack("v6")], "connection", "no machine answers; writing files to v6"),
        ([FellBack("v6"), Returned(12.3)], "connection", "connected again after 12 s"),
        ([Alarm("shadow", "died"), Steered("tier", "now norms")], "alarm", "shadow: died"),
        ([Steered("tier", "now norms")], "adapted", "now norms"),
        ([Recovered("body", "nothing", 0, 0), Recovered("body", "rollback", 2, 0.5)], "recovered", "1 times"),
        ([KernelInjected(0, 0.1, 0.2, 3), RUN[2]], "machine", r"weights of generation 3; .*; 1 kernels injected"),
        ([RolledBack("0.move", 5, "worse"), RUN[9]], "accepted", r"1 of 1 .* 1 taken back"),
        ([Progress(3, 96, 60.0, 2400.0)], "time left", "about 40 min"),
        ([Stopped("enough", 3, 1, 96, MODEL)], "stopped", "enough"),
    ],
)
def test_the_view_shows_a_problem_until_it_ends(events: list[DaemonEvent], label: str, printed: str) -> None:
    assert re.fullmatch(printed, row(drawn(*events), label))


@pytest.mark.parametrize("width", [20, 40, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(*RUN, Alarm("x" * 300, "y"), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == len(drawn(*RUN, Alarm("x", "y")).splitlines())


def test_texts_of_machines_are_escaped_on_the_terminal() -> None:
    trouble = ConnectionFailed("s", "\x1b[2J[bold]gone[/bold]", 1, 1.0)
    assert row(drawn(trouble), "connection") == r"attempt 2 in 1 s: \x1b[2J[bold]gone[/bold]"
    stream = io.StringIO()
    PlainLines(stream)(trouble)
    assert "\x1b" not in stream.getvalue()


def test_rates_leave_out_what_an_interruption_cut_short() -> None:
    cut_short = [*RUN[:5], RUN[0], *RUN[3:10]]
    counted = tally(*cut_short)
    assert counted.evaluations_per_second == pytest.approx(2 / 4)
    assert counted.applied_per_second == pytest.approx(1 / 4)
    assert tally(*RUN).describe()["share_outside_evaluation"] == pytest.approx(0.25)
    assert tally(Stopped("enough", 3, 1, 96, MODEL), RUN[0]).stopped is None
    assert tally().describe()["evaluations_per_second"] is None


def test_rates_leave_out_what_a_body_lacked_at_its_start() -> None:
    counted = tally(*RUN[:3], Applied("9.move", 3, MODEL, 9.0, 12), *RUN[3:10])
    assert counted.applied == 2
    assert counted.applied_per_second == pytest.approx(1 / 4)


def test_an_unreachable_body_is_shown_until_it_answers() -> None:
    lost = [*RUN, ConnectionFailed("bridge", "it hung up", 1, 0.5)]
    assert tally(*lost).describe()["unreached"] == "it hung up"
    assert tally(*lost, RUN[1]).unreached is None
    assert tally(*lost, RUN[0]).unreached is None


def plain(stream: io.StringIO) -> str:
    """The text without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_the_live_view_redraws_and_leaves_its_last_state_and_each_failure() -> None:
    stream = io.StringIO()
    with LiveView(stream) as view:
        for event in RUN:
            view(event)
        view(Alarm("shadow", "it died"))
        until = time.monotonic() + 120
        while "change 1.move not accepted" not in plain(stream).partition("ALARM")[2]:
            assert time.monotonic() < until, "not redrawn"
            time.sleep(0.01)
    text = plain(stream)
    assert "ALARM (shadow): it died\n" in text
    assert text.rindex("change 1.move not accepted") > text.index("ALARM")


def test_plain_lines_show_important_events_but_no_evaluations() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, clock=lambda: 0.0)
    for event in RUN:
        lines(event)
    printed = stream.getvalue().splitlines()
    assert all(one.startswith("evolve: ") for one in printed)
    assert [one for one in printed if " pixel instructions" in one] == [printed[2]]
    assert "proposal 0.1: no score (not finite)" in printed[3]
    assert len(printed) == len(RUN) - 5, "three scores, an interrupt and the second metabolism event have no line"


def test_pixels_processed_are_shown_at_a_bounded_rate() -> None:
    now = 0.0
    stream = io.StringIO()
    lines = PlainLines(stream, clock=lambda: now)
    for cycle in range(100):
        now = float(cycle)
        lines(Metabolism(cycle, cycle, 0, None, 0, None))
    counts = re.findall(r"has run (\d+) pixel instructions", stream.getvalue())
    assert counts == [str(count) for count in range(0, 100, int(COUNTS_EVERY_S))]


def test_the_time_left_is_shown_in_lines_too_at_a_bounded_rate_and_forgotten_at_the_end() -> None:
    now = 0.0
    stream = io.StringIO()
    lines = PlainLines(stream, clock=lambda: now)
    for second in range(25):
        now = float(second)
        lines(Progress(second, 3 * second, now, 5400.0 - now))
    assert stream.getvalue().splitlines() == [
        "evolve: 0 generations and 0 evaluations done, 0 s in this invocation, about 90 min left",
        "evolve: 10 generations and 30 evaluations done, 10 s in this invocation, about 90 min left",
        "evolve: 20 generations and 60 evaluations done, 20 s in this invocation, about 90 min left",
    ]
    assert "left" not in drawn(Progress(3, 96, 60.0, 2400.0), Stopped("enough", 3, 1, 96, MODEL))
    assert "left" not in drawn(Progress(3, 96, 60.0, None))


def test_a_failed_pulse_stays_on_the_terminal() -> None:
    stream = io.StringIO()
    with LiveView(stream) as view:
        view(Pulse(60, 3, 1.0, True))
        view(Pulse(120, 3, 1.0, False))
    assert stream.getvalue().count("a known program gave a WRONG result") == 1


def dots(line: str) -> list[int]:
    return [bin(ord(char) - 0x2800).count("1") for char in line]


def test_a_curve_rises_with_its_values() -> None:
    assert braille_curve([0, 1, 2, 3, 4, 5, 6, 7], width=4, height=2) == ["⠀⠀⡠⠊", "⡠⠊⠀⠀"]
    assert braille_curve([0, 7], width=1, height=2) == ["⢸", "⡸"], "a step is drawn as a line"
    assert braille_curve([5, 5], width=2, height=1) == braille_curve([-1, -1], width=2, height=1) == ["⠒⠀"]
    assert sum(dots(braille_curve([0, math.nan, 7, math.inf], width=2, height=1)[0])) == 2


@given(
    st.lists(st.floats(), max_size=200),
    st.integers(1, 20),
    st.integers(1, 6),
)
@settings(derandomize=True, deadline=None)
def test_any_values_make_a_curve_of_its_size(values: list[float], width: int, height: int) -> None:
    lines = braille_curve(values, width=width, height=height)
    assert [len(one) for one in lines] == [width] * height
    assert all(0x2800 <= ord(char) <= 0x28FF for one in lines for char in one)
    few_finite = len(values) <= 2 * width and any(map(math.isfinite, values))
    assert not few_finite or any(any(dots(one)) for one in lines)
