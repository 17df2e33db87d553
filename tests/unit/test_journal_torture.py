"""A smoke of the crash tests on the host; `make torture` runs them at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.host import build, line, run


@pytest.fixture(scope="module")
def program() -> Path:
    return build()


@pytest.mark.parametrize(("level", "states"), [("A", 3000), ("B", 1000), ("C", 2000)])
def test_no_crash_loses_or_halves_a_change(program: Path, level: str, states: int) -> None:
    told = run(program, level, states, seed=1)
    assert told["passed"], line(told)
    assert told["states"] >= states * 0.9
    assert level != "B" or told["done"]["allocation: aborted"] > 20, "allocations fail too"


def test_planted_bugs_are_found(program: Path) -> None:
    told = run(program, "G", 2500, seed=1, jobs=1)  # one thread: the same states every time
    assert told["passed"], line(told)
    assert len(told["planted"]) == 12
