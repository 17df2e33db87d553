"""The Rust reader, for the verbs that judge files."""

from __future__ import annotations

from pathlib import Path

from builder.cli.progress import reported
from builder.executable import CRATE, build_executable, executable_path


def rust_reader() -> Path:
    """The executable, built first if it is not there. Raises ToolError."""
    path = executable_path()
    if not path.is_file():
        log = CRATE / "target" / "vboot-cargo.log"
        log.parent.mkdir(exist_ok=True)
        with reported("executable") as progress:
            build_executable(log=log, progress=progress)
    return path
