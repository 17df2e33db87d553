"""A pipelined connection that may break at any moment: what was sent, and what was answered before it broke."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.torture.cut_oracle import Change
from tests.torture.expectation import DeviationError
from vboot.protocol.framing import Reader, Spoilt, encode

PATIENCE_S = 600.0
"""Long: a campaign may get what other work leaves of the host."""
_PIECE = 1 << 18
_RESYNC = b"\xff"


class LineBrokenError(Exception):
    """The machine has closed the connection, or never opened it."""


class CutLine:
    """A connection to the evolution port. Replies come in the order of the requests."""

    def __init__(self, path: Path, *, alive: Callable[[], bool]) -> None:
        """Connect, and wait for the greeting. Raises LineBrokenError if the machine dies first."""
        self._alive = alive
        self._number = 0
        self._answered = 0
        self._out = bytearray()
        self._socket = self._connected(path)

    def send(self, change: Change, *, upload: str | None = None) -> None:
        """Queue a request; `turn` sends it. `upload`: the id of one that is its blob."""
        self._number += 1
        members = {"jsonrpc": "2.0", "id": self._number, "method": change.method, "params": change.params}
        if upload is not None:
            members["blob"] = {"upload": upload}
        self._out += encode(members, change.blob or None)

    def turn(self, seconds: float) -> list[Mapping[str, Any]]:
        """Send and receive for at most so long; the replies that came. Raises LineBrokenError."""
        events = select.POLLIN | (select.POLLOUT if self._out else 0)
        poller = select.poll()
        poller.register(self._socket, events)
        ready = poller.poll(seconds * 1000)
        if not ready:
            if not self._alive():
                raise LineBrokenError
            return []
        try:
            if ready[0][1] & select.POLLOUT:
                del self._out[: self._socket.send(self._out)]
            if not ready[0][1] & ~select.POLLOUT:
                return []
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LineBrokenError from error
        if not data:
            raise LineBrokenError
        return [reply for reply in map(self._reply, self._reader.feed(data)) if reply is not None]

    def ask(self, change: Change, *, upload: str | None = None) -> Mapping[str, Any]:
        """The reply to one request, when all before it are answered. Raises LineBrokenError, DeviationError."""
        self.send(change, upload=upload)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            replies = self.turn(0.2)
            if replies:
                return replies[-1]
        raise DeviationError(f"{change.method} was not answered within {PATIENCE_S:g} s")

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def _connected(self, path: Path) -> socket.socket:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if not self._alive():
                raise LineBrokenError
            self._reader = Reader()
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(1.0)
            try:
                stream.connect(str(path))
                if self._is_greeted(stream, min(until, time.monotonic() + PATIENCE_S / 6)):
                    stream.setblocking(False)
                    return stream
            except OSError:
                time.sleep(0.02)
            stream.close()
        raise DeviationError(f"the machine does not greet within {PATIENCE_S:g} s")

    def _is_greeted(self, stream: socket.socket, until: float) -> bool:
        """Wait for the greeting to a new connection; the byte 0xFF asks for one again."""
        seen = b""
        stream.sendall(_RESYNC)
        while time.monotonic() < until and self._alive():
            try:
                data = stream.recv(_PIECE)
            except TimeoutError:
                continue
            if not data:
                return False
            seen += data
            if b'"vector_boot"' in seen and seen.endswith(b"\n"):
                return True
        return False

    def _reply(self, incoming: Any) -> Mapping[str, Any] | None:
        if isinstance(incoming, Spoilt):
            raise DeviationError(f"the machine sent {incoming.why}")
        members: Mapping[str, Any] = incoming.members
        if "vector_boot" in members:
            return None
        self._answered += 1
        if members.get("id") != self._answered:
            raise DeviationError(f"out of turn the machine sent {members!r:.200}")
        return members
