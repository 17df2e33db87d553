"""SQLite or LMDB in a process of its own: `python durable_store_child.py sqlite|lmdb FILE [SOCKET]`.

Each line on stdin is a task, answered by the nanoseconds that it took and a number of rows:

    commit TRANSACTIONS ROWS BYTES   so many durable transactions of so many rows of random bytes
    count                            open the file, which recovers it, and read the number of its rows row by row

With a SOCKET it serves one client there instead, until stdin ends: a message is the length of a row (u32) and the row,
its answer the number of the row (u64), sent when the row is durable.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

_MAP_BYTES = 1 << 36
"""The most that the file of LMDB may grow to."""


class _Store(Protocol):
    def commit(self, rows: Sequence[bytes]) -> int: ...

    def count(self) -> int: ...


class _Sqlite:
    """A table of rows in a file with a write-ahead log; a commit returns when the log is on stable storage."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS log (sequence INTEGER PRIMARY KEY, redo BLOB NOT NULL)")

    def commit(self, rows: Sequence[bytes]) -> int:
        if len(rows) == 1:
            return self._database.execute("INSERT INTO log (redo) VALUES (?)", (rows[0],)).lastrowid or 0
        self._database.execute("BEGIN IMMEDIATE")
        last = [self._database.execute("INSERT INTO log (redo) VALUES (?)", (row,)).lastrowid for row in rows][-1]
        self._database.execute("COMMIT")
        return last or 0

    def count(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM log").fetchone()[0])


class _Lmdb:
    """A tree of rows by their number; LMDB's defaults: a commit returns when it is on stable storage."""

    def __init__(self, path: Path) -> None:
        import lmdb  # type: ignore[import-not-found, unused-ignore]

        self._environment = lmdb.open(str(path), subdir=False, map_size=_MAP_BYTES)
        with self._environment.begin() as transaction:
            self._next = int(transaction.stat()["entries"])

    def commit(self, rows: Sequence[bytes]) -> int:
        with self._environment.begin(write=True) as transaction:
            for row in rows:
                self._next += 1
                transaction.put(struct.pack(">Q", self._next), row, append=True)
        return self._next

    def count(self) -> int:
        with self._environment.begin() as transaction:
            return sum(1 for _ in transaction.cursor().iternext(keys=True, values=False))


_STORES: dict[str, Callable[[Path], _Store]] = {"sqlite": _Sqlite, "lmdb": _Lmdb}


def main(arguments: Sequence[str]) -> int:
    name, path, *at = arguments
    if at:
        threading.Thread(target=_serve, args=(name, Path(path), at[0]), daemon=True).start()
        sys.stdin.read()
        return 0
    store: _Store | None = None
    for line in sys.stdin:
        task, *numbers = line.split()
        transactions, rows, size = map(int, numbers or ("0", "0", "0"))
        data = [[os.urandom(size) for _ in range(rows)] for _ in range(transactions)]
        if store is None and task == "commit":
            store = _STORES[name](Path(path))
        start = time.perf_counter_ns()
        store = store or _STORES[name](Path(path))
        for transaction in data:
            store.commit(transaction)
        count = store.count() if task == "count" else transactions * rows
        print(time.perf_counter_ns() - start, count, flush=True)
    return 0


def _serve(name: str, path: Path, at: str) -> None:
    store = _STORES[name](path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at)
        listener.listen()
        stream, _ = listener.accept()
        with stream, stream.makefile("rb") as incoming:
            while len(head := incoming.read(4)) == 4:
                row = incoming.read(struct.unpack("<I", head)[0])
                stream.sendall(struct.pack("<Q", store.commit([row])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
