"""The check of GGUF files by the runtime's own parser, before a file is read and after one was written."""

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
"""Checks a file: returns the report of `vector_boot check --json`, or raises InputError if the file is refused."""


def runtime_check(file: Path) -> Mapping[str, Any]:
    """Check a file with the executable that `find_executable` finds. Raises InputError, ToolError."""
    return check_file(find_executable(), file)


def find_executable() -> Path:
    """The path in VECTOR_BOOT_EXECUTABLE, else the checkout's executable. Raises InputError if it does not exist."""
    named = os.environ.get(EXECUTABLE_VARIABLE)
    path = Path(named) if named else _EXECUTABLE
    if path.is_file():
        return path
    remedy = f"correct {EXECUTABLE_VARIABLE}" if named else "run `vboot build`"
    raise InputError(f"there is no executable of the runtime at {path}", remedy=f"{remedy}, or pass `check`")
