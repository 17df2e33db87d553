"""The calibration curve: what it records, the map it makes, what it says of itself, and its state."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.ctrm import isotonic
from evolution.ctrm.calibration import OUTCOMES_KEPT, OUTCOMES_NEEDED, CalibrationCurve
from evolution.ctrm.reliability import brier_score, reliability, reliability_svg, wilson_interval
from vboot.errors import InputError

OUTCOMES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40)


def curve_of(count: int, *, confidence: float, good: int) -> CalibrationCurve:
    """A curve of `count` outcomes at one confidence, `good` of them good, evenly mixed."""
    curve = CalibrationCurve()
    for number in range(count):
        curve = curve.record(confidence, (number + 1) * good // count > number * good // count)
    return curve


def overconfident(count: int, seed: int) -> list[tuple[float, bool]]:
    """Confidences whose squares are the rates."""
    source = random.Random(seed)
    drawn = [source.random() for _ in range(count)]
    return [(confidence, source.random() < confidence**2) for confidence in drawn]


@settings(derandomize=True, deadline=None)
@given(pairs=OUTCOMES)
def test_the_map_is_the_isotonic_regression(pairs: list[tuple[float, bool]]) -> None:
    fitted = isotonic.fit(pairs)
    assert list(fitted.places) == sorted(set(fitted.places))
    assert list(fitted.levels) == sorted(fitted.levels)
    assert all(0 <= level <= 1 for level in fitted.levels)
    groups: dict[float, list[bool]] = {}
    for confidence, good in [*pairs, (0.0, True), (1.0, False)]:
        groups.setdefault(confidence, []).append(good)
    goods = [groups[confidence] for confidence in sorted(groups)]

    def mean(first: int, last: int) -> float:
        run = [good for group in goods[first : last + 1] for good in group]
        return sum(run) / len(run)

    # The max-min formula of isotonic regression, against pooling.
    everywhere = range(len(goods))
    expected = {max(min(mean(a, b) for b in everywhere if b >= i) for a in everywhere if a <= i) for i in everywhere}
    assert list(fitted.levels) == pytest.approx(sorted({round(level, 12) for level in expected}))


@settings(derandomize=True, deadline=None)
@given(pairs=OUTCOMES, places=st.lists(st.floats(0, 1), min_size=2))
def test_the_map_never_falls(pairs: list[tuple[float, bool]], places: list[float]) -> None:
    fitted = isotonic.fit(pairs)
    levels = [fitted(place) for place in sorted(places)]
    assert all(after >= before - 1e-12 for before, after in pairwise(levels))


def test_the_map_is_the_identity_below_the_minimum_of_outcomes() -> None:
    curve = curve_of(OUTCOMES_NEEDED - 1, confidence=0.9, good=0)
    assert curve.map(0.9) == 0.9
    assert curve.record(0.9, False).map(0.9) < 0.1


def test_never_seen_to_fail_is_not_certain() -> None:
    curve = curve_of(99, confidence=1.0, good=99)
    assert 0.98 < curve.map(1.0) < 1


def test_failures_lower_the_confidence() -> None:
    curve = CalibrationCurve()
    for confidence, good in overconfident(600, seed=1):
        curve = curve.record(confidence, good)
    for confidence in (0.3, 0.5, 0.7, 0.9):
        assert curve.map(confidence) == pytest.approx(confidence**2, abs=0.12)
    later = overconfident(2000, seed=2)
    corrected = [(curve.map(confidence), good) for confidence, good in later]
    assert brier_score(corrected) < brier_score(later) - 0.01


def test_a_reported_confidence_excludes_its_own_outcome() -> None:
    curve = curve_of(OUTCOMES_NEEDED, confidence=0.9, good=0)
    expected = curve.map(0.9)
    assert curve.record(0.9, True).reported[-1] == (expected, True)
    assert curve.reported[0] == (0.9, False)


def test_only_the_newest_outcomes_are_kept() -> None:
    rows = [[0.5, 0.5, True]] * OUTCOMES_KEPT
    curve = CalibrationCurve.from_state(json.dumps({"version": 1, "outcomes": rows})).record(0.25, False)
    assert len(curve.outcomes) == OUTCOMES_KEPT
    assert curve.outcomes[-1].raw == 0.25


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_an_invalid_confidence_is_not_recorded(confidence: float) -> None:
    with pytest.raises(InputError, match="expected a confidence"):
        CalibrationCurve().record(confidence, True)


@pytest.mark.parametrize(
    ("confidence", "count", "good", "alarmed"),
    [
        (0.85, 49, 30, True), (0.85, 49, 38, False), (0.85, 49, 42, False), (0.85, 5, 3, False), (0.85, 0, 0, False),
        (0.95, 49, 36, True), (0.95, 49, 46, False), (0.8, 49, 30, True), (0.75, 49, 0, False),
    ],
)  # fmt: skip
def test_it_alarms_when_a_tenth_above_the_gate_is_wrong_too_often(
    confidence: float, count: int, good: int, alarmed: bool
) -> None:
    alarm = curve_of(count, confidence=confidence, good=good).alarm()
    assert (alarm is not None) == alarmed
    if alarm:
        assert f"of {count} candidates" in alarm


def test_reliability_counts_every_outcome_once() -> None:
    bins = reliability([(0.0, False), (0.05, True), (0.95, True), (1.0, True)], 10)
    assert [some.count for some in bins] == [2, *[0] * 8, 2]
    assert (bins[0].predicted, bins[0].observed, bins[9].observed) == (0.025, 0.5, 1.0)
    assert bins[4].interval == (0.0, 1.0)
    with pytest.raises(InputError, match="positive number of bins, got 0"):
        reliability([], 0)


@pytest.mark.parametrize(
    ("good", "count", "expected"),
    [(0, 0, (0, 1)), (8, 10, (0.4902, 0.9433)), (0, 10, (0, 0.2775)), (50, 100, (0.4038, 0.5962))],
)
def test_wilson_intervals(good: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(good, count) == pytest.approx(expected, abs=1e-4)


def test_brier_scores() -> None:
    assert brier_score([(1.0, True), (0.0, False)]) == 0
    assert brier_score([(0.5, True), (0.5, False), (1.0, False)]) == pytest.approx(0.5)
    with pytest.raises(InputError, match="at least one outcome, got none"):
        brier_score([])


def test_the_diagram_shows_every_bin_of_every_series() -> None:
    outcomes = overconfident(200, seed=3)
    bins = reliability(outcomes)
    root = ElementTree.fromstring(reliability_svg("a < b & c", [("one", bins), ("two", bins)]))
    circles = [element for element in root if element.tag.endswith("circle")]
    assert len(circles) == 2 + 2 * sum(some.count > 0 for some in bins)
    assert "a < b & c" in "".join(root.itertext())
    with pytest.raises(InputError, match="at most 3 series, got 4"):
        reliability_svg("", [("", bins)] * 4)


@settings(derandomize=True, deadline=None)
@given(pairs=OUTCOMES)
def test_a_state_restores_everything(pairs: list[tuple[float, bool]]) -> None:
    curve = CalibrationCurve()
    for confidence, good in pairs:
        curve = curve.record(confidence, good)
    assert CalibrationCurve.from_state(curve.state()) == curve


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(derandomize=True, deadline=None)
@given(outcomes=JSON, version=JSON, junk=st.binary(max_size=30))
def test_hostile_states_are_refused(outcomes: object, version: object, junk: bytes) -> None:
    documents: list[object] = [{"version": 1, "outcomes": outcomes}, {"version": version, "outcomes": []}, outcomes]
    states: list[str | bytes] = [*(json.dumps(document) for document in documents), junk]
    for state in states:
        try:
            restored = CalibrationCurve.from_state(state)
        except InputError:
            continue
        assert all(0 <= outcome.raw <= 1 and 0 <= outcome.reported <= 1 for outcome in restored.outcomes)


@pytest.mark.parametrize(
    "state",
    [
        "", "{}", "[", "[" * 100_000, "9" * 5000, '{"version": 2, "outcomes": []}', '{"version": true, "outcomes": []}',
        '{"version": 1, "outcomes": [[0.5, 0.5, 1]]}', '{"version": 1, "outcomes": [[0.5, 1.5, true]]}',
        '{"version": 1, "outcomes": [[NaN, 0.5, true]]}', '{"version": 1, "outcomes": [[true, 0.5, true]]}',
        '{"version": 1, "outcomes": [[0.5, true]]}', '{"version": 1, "outcomes": [], "more": 1}',
        json.dumps({"version": 1, "outcomes": [[0.5, 0.5, True]] * (OUTCOMES_KEPT + 1)}),
    ],
)  # fmt: skip
def test_states_of_another_format_are_refused(state: str) -> None:
    with pytest.raises(InputError, match="not the state of a calibration curve"):
        CalibrationCurve.from_state(state)
