"""The estimate of the time that a run still takes."""

from __future__ import annotations

from typing import Any

import pytest

from evolution.daemon.config import DaemonConfig
from evolution.daemon.remaining import Remaining


def after_two_generations(**limits: Any) -> Remaining:
    """Two generations of 10 evaluations and 20 s have ended."""
    remaining = Remaining(DaemonConfig(**limits))
    for number in range(2):
        remaining.begin(20.0 * number, 10 * number)
        remaining.end(20.0 * (number + 1))
    return remaining


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, None),
        ({"generations": 10}, 160.0),
        ({"generations": 2}, 0.0),
        ({"generations": 1}, 0.0),
        ({"max_evaluations": 100}, 160.0),
        ({"max_evaluations": 95}, 160.0),  # the last generation is completed
        ({"max_seconds": 100.0}, 60.0),
        ({"max_seconds": 95.0}, 60.0),
        ({"max_seconds": 100.0, "generations": 3}, 20.0),
    ],
)
def test_the_first_limit_ends_a_run_of_whole_generations(limits: dict[str, Any], left: float | None) -> None:
    remaining = after_two_generations(**limits)
    assert remaining.left(40.0, generation=2, evaluations=20, size=10, between=True) == left


def test_the_time_spent_in_a_generation_counts() -> None:
    remaining = after_two_generations(generations=10)
    remaining.begin(40.0, 20)
    assert remaining.left(45.0, generation=2, evaluations=22, size=10) == 155.0
    assert remaining.left(500.0, generation=2, evaluations=22, size=10) == 0.0


def test_the_first_generation_is_estimated_from_its_evaluations() -> None:
    remaining = Remaining(DaemonConfig(generations=3))
    remaining.begin(0.0, 0)
    assert remaining.left(5.0, generation=0, evaluations=0, size=10) is None
    assert remaining.left(5.0, generation=0, evaluations=5, size=10) == 25.0
    assert remaining.left(0.0, generation=0, evaluations=1, size=10) == 0.0


def test_the_estimate_follows_the_load_of_the_host() -> None:
    remaining = Remaining(DaemonConfig(generations=100))
    for number in range(20):
        remaining.begin(number, number)
        remaining.end(number + (9.0 if number < 10 else 1.0))
    assert remaining.left(20.0, generation=20, evaluations=20, size=1, between=True) == 80.0
