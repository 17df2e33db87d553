"""Finds the checks: functions `check_*` of a module, and the rows its `cases()` makes of tables."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

from tests.conformance.client import Client

Check: TypeAlias = Callable[[Client], None]
Case: TypeAlias = tuple[str, Check]


def checks(*modules: ModuleType) -> list[Case]:
    """All checks of the modules in order, named `MODULE-NAME`; each takes a client whose line is in a known state."""
    found: list[Case] = []
    for module in modules:
        prefix = module.__name__.rpartition(".checks_")[2]
        own = {name: value for name, value in vars(module).items() if name.startswith("check_")}
        found += [(f"{prefix}-{name.removeprefix('check_')}", check) for name, check in own.items()]
        found += [(f"{prefix}-{name}", check) for name, check in getattr(module, "cases", tuple)()]
    return found
