"""SQLite and LMDB as the bench sees them: each in a process of its own, timed there, or behind a Unix socket."""

from __future__ import annotations

import socket
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.peers import find_peer, versions
from tests.bench.results import Setting
from tests.bench.timed_child import TimedChild
from vboot.errors import ToolError

SQLITE, LMDB = "SQLite (WAL, FULL)", "LMDB"
_PROGRAM = Path(__file__).with_name("durable_store_child.py")
_NAMES = {SQLITE: "sqlite", LMDB: "lmdb"}
_UP_SECONDS = 60.0


class Store(TimedChild):
    """A store that commits rows of random bytes to one file; the time is taken inside its process."""

    def __init__(self, python: Path, store: str, path: Path, *at: Path) -> None:
        super().__init__([str(python), str(_PROGRAM), _NAMES[store], str(path), *map(str, at)])

    def commit(self, size: int, *, rows: int = 1, transactions: int = 1) -> float:
        """The seconds of so many transactions of so many rows. Raises ToolError."""
        return self.ask(f"commit {transactions} {rows} {size}")[0]

    def count(self) -> tuple[float, int]:
        """The seconds until the file was open and its rows counted, and how many there are. Raises ToolError."""
        return self.ask("count")

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()
        self._process.wait()


class ServedStore:
    """The same behind a Unix socket: a commit lasts from the request to the answer, both seen from this process."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_UP_SECONDS)
        until = time.monotonic() + _UP_SECONDS
        while self._socket.connect_ex(str(path)):
            if time.monotonic() > until:
                raise ToolError("the store does not listen at its socket", command=[str(_PROGRAM)])
            time.sleep(0.005)

    def commit(self, row: bytes) -> float:
        """The seconds of one transaction of one row. Raises OSError."""
        start = time.perf_counter()
        self._socket.sendall(struct.pack("<I", len(row)) + row)
        answer = self._socket.recv(8)
        seconds = time.perf_counter() - start
        if len(answer) != 8:
            raise ToolError("the store behind the socket ended", command=[str(_PROGRAM)])
        return seconds

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def store_pythons(setting: Setting) -> dict[str, Path]:
    """The Python that each store runs in: SQLite comes with ours, LMDB may be missing."""
    lmdb = find_peer("lmdb", setting)
    return {SQLITE: Path(sys.executable), **({LMDB: lmdb} if lmdb else {})}


def store_versions(pythons: dict[str, Path]) -> dict[str, str]:
    """What took part."""
    return {"SQLite": sqlite3.sqlite_version, **(versions("lmdb") if LMDB in pythons else {})}


@contextmanager
def served_sqlite(path: Path) -> Iterator[ServedStore]:
    """SQLite behind a Unix socket, with the file `path`."""
    # A short path: that of a socket may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        at = Path(folder, "store.sock")
        with Store(Path(sys.executable), SQLITE, path, at):
            served = ServedStore(at)
            try:
                yield served
            finally:
                served.close()
