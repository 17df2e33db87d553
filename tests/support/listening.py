"""`vector_boot --listen` in tests: started, talked to, watched."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.evolution_port.expect import EvolutionPort

HELLO = {"protocol": 1, "client": "test"}
PATIENCE = 120
"""Seconds after which a test gives up, on a busy host too. Nothing is asserted about time."""


@dataclass(frozen=True)
class Listening:
    """A machine that listens."""

    process: subprocess.Popen[str]
    path: Path

    def connect(self) -> EvolutionPort:
        port = EvolutionPort(self.path)
        port.greet(timeout=PATIENCE)
        return port

    def raw(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(PATIENCE)
        stream.connect(str(self.path))
        return stream


@contextmanager
def listening(
    executable: Path, model: Path, folder: Path, *options: str, replaces: tuple[int, int] | None = None
) -> Iterator[Listening]:
    """A machine at `folder / "socket"` that listens, in place of a file with the identity `replaces`."""
    path = folder / "socket"
    command = [str(executable), "--listen", str(path), "--tensors", str(model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or identity(path) not in {None, replaces})
            yield Listening(process, path)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds; it fails the test when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.005)


def identity(path: Path) -> tuple[int, int] | None:
    """Inode and change time of the file at a path; None if there is none."""
    try:
        return path.lstat().st_ino, path.lstat().st_ctime_ns
    except FileNotFoundError:
        return None


def result(port: EvolutionPort, method: str, **params: Any) -> dict[str, Any]:
    reply = port.request(method, params, timeout=PATIENCE)
    assert reply.error is None, reply.error
    return dict(reply.result or {})


def code(port: EvolutionPort, method: str, params: dict[str, Any], *, blob: bytes | None = None) -> int:
    reply = port.request(method, params, blob=blob, timeout=PATIENCE)
    assert reply.error is not None, reply.result
    return int(reply.error["code"])


def line(ident: object, method: str, params: dict[str, Any] | None = None, **more: Any) -> bytes:
    return (
        json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}, **more}).encode() + b"\n"
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def beat_on(port: EvolutionPort, beats: int) -> dict[str, Any]:
    """Wait for so many beats; then the `stats`."""
    wait_until(lambda: result(port, "stats")["heartbeats"] >= beats)
    return result(port, "stats")


def wait_for_next_worker(machine: Listening, last: int) -> None:
    """Wait until another worker than this one runs."""
    wait_until(lambda: machine.process.poll() is not None or children(machine.process.pid) not in ([last], []))
    assert machine.process.poll() is None, "the machine ended"
