"""The Rust reader, for the verbs that judge files."""

from __future__ import annotations

from pathlib import Path

from builder.executable import CRATE, build_executable, executable_path
from cli.progress import reported
from vboot.check import file_size


def rust_reader(*files: Path) -> Path:
    """The executable, built first if it is not there.

    Raises ToolError if that fails, and InputError for one of `files` that is not there, before anything is built.
    """
    for file in files:
        file_size(file)
    path = executable_path()
    if not path.is_file():
        log = CRATE / "target" / "vboot-cargo.log"
        log.parent.mkdir(exist_ok=True)
        with reported("executable") as progress:
            build_executable(log=log, progress=progress)
    return path
