"""The judge of GGUF files: the runtime's own parser, before anything here reads a file and after one was written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vboot.check import check_file
from vboot.errors import InputError

EXECUTABLE_VARIABLE = "VECTOR_BOOT_EXECUTABLE"
_EXECUTABLE = Path(__file__).resolve().parents[2] / "vector_boot" / "target" / "release" / "vector_boot"

FileCheck: TypeAlias = Callable[[Path], Mapping[str, Any]]
"""Judges a file: the report of `vector_boot check --json`, or InputError when it is refused."""


def runtime_check(file: Path) -> Mapping[str, Any]:
    """Judge a file with the executable that `find_executable` finds. Raises InputError, ToolError."""
    return check_file(find_executable(), file)


def find_executable() -> Path:
    """What VECTOR_BOOT_EXECUTABLE names, else the checkout's. Raises InputError when it is not there."""
    named = os.environ.get(EXECUTABLE_VARIABLE)
    path = Path(named) if named else _EXECUTABLE
    if path.is_file():
        return path
    remedy = f"correct {EXECUTABLE_VARIABLE}" if named else "run `vboot build`"
    raise InputError(f"the executable of the runtime is not at {path}", remedy=f"{remedy}, or pass `check`")
