"""What cargo makes for the verbs, built when it is needed: the Rust reader, and the library of the runtime."""

from __future__ import annotations

import os
from pathlib import Path

from builder.executable import CRATE, build_executable, executable_path, ready_library
from cli.progress import reported
from vboot.check import file_size
from vboot.client.bridge_process import LIBRARY_VARIABLE, find_library


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


def runtime_library() -> Path:
    """The library that `RustNeuralBridge` runs: the one that $VECTOR_BOOT_LIBRARY names, else the checkout's, built
    first if it is missing or older than its sources.

    Raises ToolError if it cannot be built, InputError if the one named does not exist.
    """
    if os.environ.get(LIBRARY_VARIABLE):
        return find_library()
    with reported("library of the runtime") as progress:
        return ready_library(progress=progress)
