"""Charts and plots as SVG: read back as XML, and where things lie in them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.daemon.chart import POINTS_MOST, Panel, Point, Scale, Series, chart, thin, ticks, value_range
from evolution.daemon.events import (
    Acknowledged,
    Applied,
    DaemonEvent,
    Evaluated,
    GenerationEnded,
    Judged,
    Metabolism,
    RolledBack,
    Started,
)
from evolution.daemon.plots import BLUE, GREEN, GREY, RED, energy_svg, fitness_svg, latency_svg, without_abandoned

SVG = "{http://www.w3.org/2000/svg}"
NAN, INF = math.nan, math.inf


def paths(svg: str, colour: str) -> list[str]:
    return [path.attrib["d"] for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("stroke") == colour]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter() if element.tag in (f"{SVG}text", f"{SVG}title")]


def places(path: str) -> list[Point]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def drawn(points: Sequence[Point], *, logarithmic: bool = False) -> list[str]:
    return paths(chart("t", "x", [Panel("y", (Series("s", points, BLUE),), logarithmic)]), BLUE)


def test_a_line_lies_where_its_values_say() -> None:
    (path,) = drawn([(0, 0), (5, 10), (10, 5)])
    (x0, y0), (x1, y1), (x2, y2) = places(path)
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 > y2 > y1, "the larger the higher"
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, abs=0.2)


def test_a_logarithmic_axis_spaces_powers_evenly() -> None:
    (path,) = drawn([(0, 1), (1, 10), (2, 100)], logarithmic=True)
    (_, y0), (_, y1), (_, y2) = places(path)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    svg = chart("t", "x", [Panel("y", (Series("s", [(0, 0.5), (1, 2000)], BLUE),), logarithmic=True)])
    assert {"1", "10", "100", "1000"} <= set(texts(svg))


def test_what_cannot_be_scaled_breaks_a_line_and_nothing_else() -> None:
    pieces = drawn([(0, 1), (1, 2), (2, NAN), (3, 3), (4, INF), (5, 1), (6, 2), (NAN, 1), (7, 1e300)])
    assert [len(places(piece)) for piece in pieces] == [2, 1, 1, 2]  # a single point is drawn as a dot as well
    assert [len(places(path)) for path in drawn([(0, 1), (1, 0), (2, -3), (3, 4), (4, 5)], logarithmic=True)][-1] == 2


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=30),
    st.booleans(),
    st.sampled_from(["line", "steps", "dot", "cross"]),
    st.text(max_size=10),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_any_values_and_any_label_make_a_document_of_finite_numbers(
    points: list[Point], logarithmic: bool, mark: str, label: str
) -> None:
    svg = chart(label, label, [Panel(label, (Series(label, points, BLUE, mark),), logarithmic)])  # type: ignore[arg-type]
    ElementTree.fromstring(svg)
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        assert not re.search("nan|inf|e", path.attrib["d"])
        for number in re.findall(r"-?\d+\.\d", path.attrib["d"]):
            assert -10 <= float(number) <= 900


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("points", [[], [(1.0, 5.0)], [(1.0, 5.0), (2.0, 5.0)]])
def test_few_or_equal_values_can_be_drawn(points: list[Point], logarithmic: bool) -> None:
    svg = chart("t", "x", [Panel("y", (Series("s", points, BLUE),), logarithmic)])
    assert bool(paths(svg, BLUE)) == bool(points)
    assert ("nothing to show yet" in texts(svg)) == (not points)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
@settings(derandomize=True, deadline=None)
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 6
    assert all(low - width * 1e-6 <= mark <= low + width * (1 + 1e-6) for mark in marks)
    steps = [after - before for before, after in pairwise(marks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-2)


def test_ticks_are_multiples_of_one_two_or_five() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.83, -0.78) == pytest.approx([-0.83, -0.82, -0.81, -0.80, -0.79, -0.78])
    assert value_range([3]) == (1.5, 4.5)
    assert value_range([]) == (0, 1)
    assert Scale(0, 10, 100, 0)(2.5) == 75


def test_a_long_series_keeps_its_extremes() -> None:
    points = [(float(x), 1000.0 if x == 54321 else -7.0 if x == 12345 else 0.0) for x in range(100_000)]
    kept = thin(points)
    assert len(kept) <= POINTS_MOST
    assert (54321.0, 1000.0) in kept
    assert (12345.0, -7.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:5]) == points[:5]


def started(generation: int = 0) -> Started:
    return Started("EvolutionDaemonV7 (Rust-Native)", "r", "antithetic_es", "output", 3, generation, 0, generation > 0)


def generation(number: int, *, accepted: bool, before: float, after: float, each: int = 4) -> list[DaemonEvent]:
    total = (number + 1) * each
    scores = [
        Evaluated(f"{number}.{member}", -1.0 - member, "", 0.1, number * each + member + 1) for member in range(each)
    ]
    judged = Judged(f"{number}.move", 0.9, None if accepted else "drift", before, after)
    ended = GenerationEnded(number, accepted, after if accepted else before, total, 1.0, 0.1, "ab" * 32)
    return [*scores, judged, ended]


def test_fitness_shows_the_parent_its_moves_and_all_proposals() -> None:
    first = generation(0, accepted=True, before=-1.0, after=-0.8)
    second = generation(1, accepted=False, before=-0.8, after=-0.9)
    svg = fitness_svg([started(), *first, *second])
    assert "Fitness: antithetic_es, tier output, seed 3" in texts(svg)
    (parent,) = paths(svg, BLUE)
    assert parent.count("V") == 2, "it began at -1.0"
    (accepted,), (refused,), (proposals,) = (paths(svg, colour) for colour in (GREEN, RED, GREY))
    assert [len(places(path)) for path in (accepted, refused, proposals)] == [1, 1, 8]
    assert places(accepted)[0][1] < places(refused)[0][1], "the refused move was worse"
    steps = [float(x) for x in re.findall(r"H([\d.]+)", parent)]
    assert steps == pytest.approx([places(accepted)[0][0], places(refused)[0][0] + 3], abs=0.2)


def test_a_proposal_without_a_score_has_no_place() -> None:
    svg = fitness_svg([started(), Evaluated("0.0", None, "refused", 0.1, 1), Evaluated("0.1", NAN, "", 0.1, 2)])
    assert not paths(svg, GREY)


def test_what_a_resumed_run_does_again_counts_once() -> None:
    first = generation(0, accepted=True, before=-1.0, after=-0.8)
    cut_short = generation(1, accepted=True, before=-0.8, after=-0.7)[:3]
    second = generation(1, accepted=True, before=-0.8, after=-0.7)
    live = Applied("1.move", 2, "ab" * 32, 5.0, 10)
    events = [started(), *first, *cut_short, live, started(1), *second]
    assert without_abandoned(events) == [started(), *first, live, started(1), *second]
    # One whose end was logged, but not recorded in the state, is repeated as well.
    recorded = [started(), *first, *second, started(1), *second]
    assert without_abandoned(recorded) == [started(), *first, started(1), *second]


def test_latency_shows_moves_interrupts_and_what_was_taken_back() -> None:
    events: list[DaemonEvent] = [
        started(),
        Evaluated("0.0", -1.0, "", 0.1, 10),
        Applied("0.move", 1, "ab" * 32, 10.0, 5),
        Acknowledged(255, 200),
        Evaluated("1.0", -1.0, "", 0.1, 20),
        Applied("1.move", 2, "ab" * 32, 1000.0, 5),
        RolledBack("1.move", 3, "worse"),
    ]
    svg = latency_svg(events)
    (applied,) = paths(svg, BLUE)
    (x0, y0), (x1, y1) = places(applied)
    assert x0 < x1
    assert y0 > y1
    assert {"10", "100", "1000"} <= set(texts(svg))
    (taken_back,) = paths(svg, RED)
    assert places(taken_back)[0] == pytest.approx((x1 - 3, y1 - 3))
    ElementTree.fromstring(latency_svg([RolledBack("kept of before", 3, "lease")]))


def test_energy_has_gaps_where_the_body_reported_none() -> None:
    cycles = [Metabolism(cycle, 100 * cycle, 1, 900 if cycle != 3 else None, 0, 150) for cycle in range(1, 7)]
    svg = energy_svg([started(), *cycles])
    pieces = [places(path) for path in paths(svg, GREEN)]
    assert [len(piece) for piece in pieces] == [2, 3]
    assert len(places(paths(svg, BLUE)[0])) == 6
    assert "pixels processed" in texts(svg)


def test_no_events_make_plots_that_say_so() -> None:
    for svg in (fitness_svg([]), latency_svg([]), energy_svg([])):
        assert "nothing to show yet" in texts(svg)
