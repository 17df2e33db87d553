"""What a run needs beside its data: the runtime's library and executable, and a model with slots for kernels."""

from __future__ import annotations

import os
from pathlib import Path

from cli.rust_reader import runtime_library, rust_reader
from evolution.daemon.identity import file_sha256
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import SLOTS
from evolution.surgeon.runtime_check import EXECUTABLE_VARIABLE, runtime_check
from image.compose import compose
from vboot.errors import InputError
from vboot.text import path_text


def ready_tools() -> None:
    """Build what runs and checks models, where it is missing or old. Raises InputError, ToolError."""
    runtime_library()
    if not os.environ.get(EXECUTABLE_VARIABLE):
        rust_reader()


def composed(model: Path, folder: Path) -> Path:
    """The model with the machine's tensors, composed into the run's folder unless the file has them.

    A snapshot of the run's weights is a file with the tensors of its model, so only a composed one can hold an evolved
    kernel. The result has the same bytes every time. Raises InputError, ToolError.
    """
    if GGUFFile(model, runtime_check).tensors.keys() >= SLOTS:
        return model
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{path_text(folder)} cannot be the folder of a run ({error.strerror or error})"
        raise InputError(what, remedy="choose another folder") from error
    output = folder / f"composed-{file_sha256(model)[:8]}.gguf"
    if not output.exists():
        compose(str(model), output)
    return output
