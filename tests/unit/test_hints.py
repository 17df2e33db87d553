from __future__ import annotations

import pytest

from cli import hints
from tests.support.vboot import Vboot


def test_what_comes_next_is_the_last_line_for_people_alone(vboot: Vboot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert vboot("doctor") == 0
    assert vboot.out.splitlines()[-1] == "next: vboot build"
    assert "next" not in vboot.json("doctor")


def test_below_make_the_targets_of_make_are_named(vboot: Vboot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")
    assert vboot("doctor") == 0
    assert vboot.out.splitlines()[-1] == "next: make image"


def test_a_hint_of_a_command_that_failed_is_not_shown_by_the_next(vboot: Vboot) -> None:
    hints.next_step("never")
    assert vboot("doctor") == 0
    assert "never" not in vboot.out
