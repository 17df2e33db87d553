"""SECURITY.md is true where a program can tell: the lines of code, and the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.trusted_lines import counted

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


@pytest.mark.parametrize("part", counted())
def test_the_lines_of_code_are_about_as_many_as_it_says(part: str) -> None:
    stated = re.search(rf"^\| {part}.* \| about ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert stated is not None
    lines, actual = int(stated.group(1).replace(",", "")), counted()[part]
    assert abs(lines - actual) <= 0.08 * actual, f"{part} has {actual} lines"


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:tests|vector_boot|sys|protocol)/[\w/.]+\.\w+)`", PAGE))
    assert len(named) >= 8
    missing = [name for name in named if not any((ROOT / base / name).exists() for base in ("", "vector_boot/src"))]
    assert missing == []
