"""The probability that a candidate is not degraded: the distribution, and the test made of it."""

from __future__ import annotations

import math
import random
from statistics import NormalDist, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.ctrm.confidence import probability_not_degraded, regularised_beta, student_t_cdf
from evolution.fitness.contract import Evaluation
from vboot.errors import InputError


def evaluation(*items: float) -> Evaluation:
    return Evaluation(fmean(items), items)


@pytest.mark.parametrize("t", [-40.0, -3.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 2.0, 12.7, 300.0])
def test_few_degrees_of_freedom_have_closed_forms(t: float) -> None:
    u = t / math.sqrt(1 + t * t / 4)
    closed = {
        1: 0.5 + math.atan(t) / math.pi,
        2: 0.5 + t / (2 * math.sqrt(2 + t * t)),
        4: 0.5 + 3 / 8 * u * (1 - t * t / (1 + t * t / 4) / 12),
    }
    for degrees, expected in closed.items():
        assert student_t_cdf(t, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(
    ("degrees", "share", "t"),
    [
        (3, 0.95, 2.353363), (5, 0.99, 3.364930), (10, 0.975, 2.228139), (10, 0.9995, 4.586894),
        (30, 0.90, 1.310415), (120, 0.975, 1.979930),
    ],
)  # fmt: skip
def test_the_quantiles_of_printed_tables(degrees: int, share: float, t: float) -> None:
    assert student_t_cdf(t, degrees) == pytest.approx(share, abs=2e-6)


@settings(derandomize=True, deadline=None)
@given(t=st.floats(-60, 60), more=st.floats(0, 5), degrees=st.integers(1, 5000))
def test_a_distribution_function_is_symmetric_and_rises(t: float, more: float, degrees: int) -> None:
    here = student_t_cdf(t, degrees)
    assert 0 <= here <= 1
    assert here + student_t_cdf(-t, degrees) == pytest.approx(1, abs=1e-12)
    assert student_t_cdf(t + more, degrees) >= here - 1e-12
    if degrees > 1000:
        assert here == pytest.approx(NormalDist().cdf(t), abs=5e-4)


@settings(derandomize=True, deadline=None)
@given(x=st.floats(0, 1), a=st.integers(1, 60), b=st.integers(1, 60))
def test_whole_parameters_of_beta_are_a_binomial_tail(x: float, a: int, b: int) -> None:
    n = a + b - 1
    tail = math.fsum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert regularised_beta(x, a, b) == pytest.approx(tail, rel=1e-9, abs=1e-13)


def test_what_does_not_change_is_not_degraded() -> None:
    same = evaluation(-1.0, -0.2, -3.0)
    assert probability_not_degraded(same, same, tolerance=0.05) == 1.0


def test_a_uniform_fall_is_judged_by_the_margin_alone() -> None:
    before = evaluation(-1.0, -2.0, -3.0)
    by = [evaluation(*(item - fall for item in before.items)) for fall in (0.0625, 0.125)]
    assert [probability_not_degraded(before, after, tolerance=0.05) for after in by] == [1.0, 0.0]


def test_the_mean_alone_at_the_margin_is_even_odds() -> None:
    before = evaluation(-1.0, -1.0, -1.0, -1.0)
    after = evaluation(-1.25, -1.75, -1.5, -1.5)
    assert probability_not_degraded(before, after, tolerance=0.5) == pytest.approx(0.5)


def test_three_items_by_hand() -> None:
    before, after = evaluation(-1.0, -1.0, -1.0), evaluation(-1.0, -1.125, -1.0625)
    # d = 0, -1/8, -1/16: mean -1/16, standard deviation 1/16; the margin is 1/8; t = (1/16) / (1/16 / sqrt(3)).
    t = math.sqrt(3)
    expected = 0.5 + t / (2 * math.sqrt(2 + t * t))
    assert probability_not_degraded(before, after, tolerance=0.125) == pytest.approx(expected)


def test_a_score_that_grows_with_the_items_is_judged_alike() -> None:
    low, lower = evaluation(-1.0, -2.0, -1.5), evaluation(-1.1, -2.0, -1.7)
    high, less = evaluation(1.0, 2.0, 1.5), evaluation(0.9, 2.0, 1.3)
    falling = [probability_not_degraded(*pair, tolerance=0.05) for pair in ((low, lower), (high, less))]
    assert falling[0] == pytest.approx(falling[1])


def test_a_candidate_just_at_the_margin_seldom_gets_a_high_confidence() -> None:
    source = random.Random(1)
    confidences = []
    for _ in range(2000):
        after = [-1.05 + source.gauss(0, 0.2) for _ in range(32)]
        confidences.append(probability_not_degraded(evaluation(*[-1.0] * 32), evaluation(*after), tolerance=0.05))
    assert sum(confidence > 0.8 for confidence in confidences) / 2000 == pytest.approx(0.2, abs=0.03)
    assert sum(confidence > 0.95 for confidence in confidences) / 2000 == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("before", "after"), [((-1.0,), (-1.0,)), ((-1.0, -2.0), (-1.0, -2.0, -3.0))])
def test_what_is_not_paired_is_refused(before: tuple[float, ...], after: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected the same two or more items"):
        probability_not_degraded(evaluation(*before), evaluation(*after), tolerance=0.05)
