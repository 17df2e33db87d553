"""The real executable behind a Unix socket, up in milliseconds: the machine of tests that need no virtual one."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.executable import executable_path
from image.compose import compose
from qemu.process import Process, spawn

_UP_S = 120.0
"""Seconds after which a machine that does not listen fails a test, on a busy host too."""


@dataclass(frozen=True)
class LocalMachine:
    """A running `vector_boot --listen`."""

    socket: Path
    process: Process


_FOLDER = tempfile.TemporaryDirectory(prefix="vboot-test-")
"""Removed when the tests end."""


@functools.cache
def tiny_model() -> Path:
    """vectorland.gguf of the tiny model, composed once."""
    path = Path(_FOLDER.name) / "vectorland.gguf"
    compose("tiny", path)
    return path


@contextmanager
def local_machine(folder: Path, *options: str, model: Path | None = None) -> Iterator[LocalMachine]:
    """A machine that serves a model (tiny) at a socket in `folder`; it and its worker are killed in the end."""
    socket = folder / "evolution.sock"
    command = [str(executable_path()), "--listen", str(socket), "--tensors", str(model or tiny_model()), *options]
    process = spawn(command, log=folder / "machine.log")
    try:
        until = time.monotonic() + _UP_S
        while not socket.is_socket():
            assert not process.wait(0.005), (folder / "machine.log").read_text()
            assert time.monotonic() < until, "the machine does not listen"
        yield LocalMachine(socket, process)
    finally:
        assert process.kill()
