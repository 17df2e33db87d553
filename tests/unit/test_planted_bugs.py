"""The bugs that the crash tests plant are never in an executable of a release."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from builder.executable import CRATE
from tests.torture.host import build

_FEATURE = "planted"


def _names() -> list[bytes]:
    """The names of all planted bugs."""
    source = (CRATE / "src/journal/device/planted.rs").read_text()
    return [name.encode() for name in re.findall(r'\(Bug::\w+, "([a-z-]+)"\)', source)]


def test_the_executable_has_no_planted_bugs(executable: Path) -> None:
    names, data = _names(), executable.read_bytes()
    assert len(names) == 12
    assert [name for name in names if name in data] == []


def test_the_crash_tests_have_them() -> None:
    data = build().read_bytes()
    assert [name for name in _names() if name not in data] == []


def test_no_other_feature_plants_bugs() -> None:
    features = tomllib.loads((CRATE / "Cargo.toml").read_text())["features"]
    assert features[_FEATURE] == []
    assert [name for name, others in features.items() if _FEATURE in others] == []
