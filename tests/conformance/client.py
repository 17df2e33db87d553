"""A raw client of the evolution protocol, written from its text alone: a socket, lines of JSON, blobs, CRC32C.

It shares nothing with `evolution/`: a mistake there must not hide the same mistake in the machine.
"""

from __future__ import annotations

import itertools
import json
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LINE_LIMIT = 65_536
BLOB_LIMIT = 1 << 20
_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`, a byte at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def new_id() -> str:
    """A fresh 32-hex id."""
    return secrets.token_hex(16)


def blob_member(blob: bytes) -> dict[str, Any]:
    """The `blob` member that announces these bytes."""
    return {"bytes": len(blob), "crc32c": f"{crc32c(blob):08x}"}


def message(
    ident: Any,
    method: str,
    params: dict[str, Any] | None = None,
    *,
    blob: bytes | None = None,
    announced: dict[str, Any] | None = None,
) -> bytes:
    """A request as bytes: the line, and the blob after it. `announced` is a `blob` member other than the true one."""
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}}
    if announced is not None or blob is not None:
        request["blob"] = announced if announced is not None else blob_member(blob or b"")
    return json.dumps(request).encode() + b"\n" + (blob or b"")


@dataclass(frozen=True)
class Message:
    """One line of the machine, and the blob that came with it."""

    body: dict[str, Any]
    blob: bytes | None

    @property
    def code(self) -> int:
        """The error's code; 0 for a result."""
        return int(self.body["error"]["code"]) if "error" in self.body else 0

    @property
    def result(self) -> dict[str, Any]:
        """The result; a failed assertion where the machine refused."""
        assert "error" not in self.body, self.body["error"]
        return dict(self.body["result"])

    @property
    def data(self) -> dict[str, Any]:
        """The error's `data`."""
        return dict(self.body["error"].get("data") or {})


class DisconnectedError(AssertionError):
    """The machine closed the connection."""


class Client:
    """One connection. Every wait ends after `patience` seconds with a failed assertion.

    `rest` is how many seconds a worker is let live before a check crashes it: a machine that takes all the checks in
    a row must not see in them a worker that cannot live at all. `gap` is how long to stay away after hanging up: a port
    looks for its host once a beat, and takes what happened in between for one connection. `others` are the sockets of
    further connections to the same machine.
    """

    def __init__(
        self, path: Path, *, patience: float, rest: float = 0, gap: float = 0, others: Sequence[Path] = ()
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.others = others
        self.path = path
        self.patience = patience
        self.rest = rest
        self.gap = gap
        self._ids = itertools.count(1)
        self._connect()

    def _connect(self) -> None:
        self._pending = bytearray()
        self._stream = socket.socket(socket.AF_UNIX)
        self._stream.connect(str(self.path))

    def again(self) -> None:
        """Hang up and connect anew."""
        self.close()
        time.sleep(self.gap)
        self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def send(self, data: bytes) -> None:
        """Send raw bytes, valid or not."""
        self._stream.settimeout(self.patience)
        self._stream.sendall(data)

    def _more(self, until: float) -> None:
        left = until - time.monotonic()
        assert left > 0, f"no answer within {self.patience} s; pending {bytes(self._pending[:200])!r}"
        self._stream.settimeout(left)
        try:
            data = self._stream.recv(1 << 18)
        except TimeoutError:
            return
        if not data:
            raise DisconnectedError("the machine hung up")
        self._pending += data

    def _line(self, until: float) -> bytes:
        while (end := self._pending.find(b"\n")) < 0:
            self._more(until)
        line = bytes(self._pending[: end + 1])
        del self._pending[: end + 1]
        assert len(line) <= LINE_LIMIT, "a line of the machine is too long"
        return line

    def receive(self, *, patience: float | None = None) -> Message:
        """The next message, events included; its blob's CRC is checked."""
        until = time.monotonic() + (self.patience if patience is None else patience)
        body = json.loads(self._line(until))
        blob = None
        if "blob" in body:
            size = body["blob"]["bytes"]
            assert 1 <= size <= BLOB_LIMIT
            while len(self._pending) < size:
                self._more(until)
            blob = bytes(self._pending[:size])
            del self._pending[:size]
            assert f"{crc32c(blob):08x}" == body["blob"]["crc32c"]
        return Message(body, blob)

    def reply(self) -> Message:
        """The next message that is not an event; events before it are appended to `events`."""
        while True:
            got = self.receive()
            if got.body.get("method") != "event":
                return got
            self.events.append(got.body["params"])

    def silent(self, seconds: float) -> bool:
        """Whether the machine says nothing for so long."""
        if self._pending:
            return False
        self._stream.settimeout(seconds)
        try:
            self._pending += self._stream.recv(1 << 18)
        except TimeoutError:
            return True
        return False

    def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        blob: bytes | None = None,
        announced: dict[str, Any] | None = None,
    ) -> Message:
        """Send a request and wait for its own reply."""
        ident = next(self._ids)
        self.send(message(ident, method, params, blob=blob, announced=announced))
        got = self.reply()
        assert got.body.get("id") == ident, got.body
        assert got.body.get("jsonrpc") == "2.0"
        return got

    def result(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request without a blob."""
        return self.ask(method, params).result

    def greeting(self) -> dict[str, Any]:
        """The next message, which must be a greeting."""
        got = self.reply()
        assert list(got.body) == ["vector_boot"], got.body
        return dict(got.body["vector_boot"])

    def resync(self) -> None:
        """From any state of the line to a known one, as the protocol tells a client to."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            ident = new_id()
            self._pending.clear()
            self.send(b"\xff" + message(ident, "hello", {"protocol": 1, "client": "conformance"}))
            if self._answered(ident, time.monotonic() + 2.5):
                return
        raise AssertionError("no answer to hello after 0xFF")

    def _answered(self, ident: str, until: float) -> bool:
        """Whether the reply to `ident` came; everything before it is dropped, also the rest of an old blob."""
        while time.monotonic() < until:
            end = self._pending.find(b"\n")
            if end < 0:
                self._stream.settimeout(max(until - time.monotonic(), 0.001))
                try:
                    data = self._stream.recv(1 << 18)
                except TimeoutError:
                    return False
                if not data:
                    raise DisconnectedError("the machine hung up")
                self._pending += data
                continue
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            if ident.encode() in line:
                return True
        return False


@contextmanager
def connected(
    path: Path, *, patience: float, rest: float = 0, gap: float = 0, others: Sequence[Path] = ()
) -> Iterator[Client]:
    """A connection whose line is in a known state."""
    with Client(path, patience=patience, rest=rest, gap=gap, others=others) as client:
        client.resync()
        yield client
