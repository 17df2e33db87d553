"""Counts the lines of code that SECURITY.md names: `python -m tests.support.trusted_lines`.

Without comments, blank lines and tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "vector_boot" / "src"
_ONLY_LISTENING = {"listen.rs", "socket_file.rs", "state_file.rs"}
"""Files of the supervisor that serve `--listen` alone."""
_ONLY_WORKER = {"fault.rs", "landlock.rs", "limits.rs", "local_socket.rs"}
"""Wrappers of system calls that PID 1 does not use."""


def _pid_1() -> list[Path]:
    names = ("main.rs", "standalone/mod.rs", "standalone/control.rs", "hw_mmio.rs", "vitals.rs")
    supervisor = (path for path in _rust("standalone/supervisor") if path.name not in _ONLY_LISTENING)
    wrappers = (path for path in _rust("sys") if path.name not in _ONLY_WORKER)
    return [*(SOURCE / name for name in names), *supervisor, *wrappers]


def _judges() -> list[Path]:
    names = ("rts.rs", "container_file.rs")
    return [*(SOURCE / name for name in names), *_rust("gguf"), *_rust("protocol")]


def _rust(folder: str) -> list[Path]:
    return [path for path in sorted((SOURCE / folder).rglob("*.rs")) if "tests" not in (path.stem, path.parent.name)]


def lines_of_code(paths: Iterable[Path]) -> int:
    """Lines that are neither blank nor a comment, up to the tests at the end of a file."""
    total = 0
    for path in paths:
        code = re.split(r"^#\[cfg\(test\)\]$", path.read_text("utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
        total += sum(1 for line in code.splitlines() if line.strip() and not line.lstrip().startswith("//"))
    return total


def counted() -> Mapping[str, int]:
    """The lines of each part by the first words of its row in SECURITY.md."""
    return {
        "PID 1": lines_of_code(_pid_1()),
        "what judges": lines_of_code(_judges()),
        "the whole crate": lines_of_code(_rust(".")),
    }


if __name__ == "__main__":
    for part, lines in counted().items():
        print(f"{part}: {lines}")
