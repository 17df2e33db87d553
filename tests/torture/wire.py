"""Pipelined requests; after a lost connection all unanswered requests are sent again.

Requests are answered in order, so that the oldest one without a reply is the one that the next reply must be for.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.torture.expectation import DeviationError, Request
from vboot.protocol.framing import Reader, Spoilt, encode

Answer = tuple[Mapping[str, Any], bytes | None]

_POSTED = 0
_WINDOW = 40
"""Below 64, the number at which a machine stops reading."""
_REPLY_SECONDS = 60.0
_SLICE_SECONDS = 0.2
_RETRY_SECONDS = 0.005
_PIECE = 1 << 18


class ConnectionLostError(Exception):
    """The machine closed the connection."""


class Wire:
    """A connection to the machine at a socket; `on_answer` gets each request and its reply, in order."""

    def __init__(
        self, path: Path, on_answer: Callable[[Request, Answer], None], *, check_alive: Callable[[], None]
    ) -> None:
        self._path = path
        self._on_answer = on_answer
        self._check_alive = check_alive
        self._number = 0
        self._pending: deque[tuple[int, Request]] = deque()
        self._out = bytearray()
        self._connect(time.monotonic() + _REPLY_SECONDS)

    @property
    def waiting(self) -> list[Request]:
        """The requests without a reply, oldest first."""
        return [request for _, request in self._pending]

    def submit(self, request: Request) -> None:
        """Send a request as soon as the window has room. Raises ConnectionLostError."""
        self._number += 1
        self._pending.append((self._number, request))
        self._out += _encode(self._number, request)
        self._settle(_WINDOW)

    def drain(self) -> None:
        """Wait until all is answered. Raises ConnectionLostError."""
        self._settle(0)

    def ask(self, request: Request) -> Answer:
        """The reply to a request, which is judged by the caller; everything before it is answered then."""
        self.drain()
        answers: list[Answer] = []
        usual, self._on_answer = self._on_answer, lambda _request, answer: answers.append(answer)
        try:
            self.submit(request)
            self.drain()
        finally:
            self._on_answer = usual
        return answers[0]

    def post(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a request whose reply, if there is one, does not matter."""
        self._out += _encode(_POSTED, Request(0, method, params))
        self._push()

    def cut(self, share: float) -> None:
        """Leave when that share of what is not sent yet, at least of the last request, has gone out."""
        if not self._out and self._pending:
            return self._socket.close()
        del self._out[max(1, int(len(self._out) * share)) :]
        while self._out:
            self._push()
        return self._socket.close()

    def hold_back(self, request: Request) -> None:
        """Queue a request and send nothing of it."""
        while self._out:
            self._push()
        self._number += 1
        self._pending.append((self._number, request))
        self._out += _encode(self._number, request)

    def await_loss(self) -> None:
        """Take in what still comes until the machine closes the connection."""
        until = time.monotonic() + _REPLY_SECONDS
        while True:
            try:
                self._pump(until)
            except ConnectionLostError:
                return

    def resume(self) -> None:
        """Connect again and send again whatever is without a reply."""
        self._socket.close()
        self._connect(time.monotonic() + _REPLY_SECONDS)
        self._pending = deque((number, replace(request, resent=True)) for number, request in self._pending)
        self._out = bytearray().join(_encode(number, request) for number, request in self._pending)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def _connect(self, until: float) -> None:
        """Until the machine greets: while it is started anew, or has not seen the last client leave, it does not."""
        while True:
            self._reader = Reader()
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(_REPLY_SECONDS)
            try:
                self._socket.connect(str(self._path))
                data = self._socket.recv(_PIECE)
            except OSError:
                data = b""
            if b'"vector_boot"' in data:
                self._socket.setblocking(False)
                self._poller = select.poll()
                self._poller.register(self._socket, select.POLLIN)
                list(self._reader.feed(data))
                return
            self._socket.close()
            self._check_alive()
            if time.monotonic() > until:
                raise DeviationError(f"the machine does not greet within {_REPLY_SECONDS:g} s")
            time.sleep(_RETRY_SECONDS)

    def _settle(self, most: int) -> None:
        """Until at most so many requests are without a reply."""
        self._push()
        until = time.monotonic() + _REPLY_SECONDS
        while len(self._pending) > most:
            if self._pump(until):
                until = time.monotonic() + _REPLY_SECONDS

    def _push(self) -> None:
        if self._out:
            try:
                del self._out[: self._socket.send(self._out)]
            except BlockingIOError:
                self._pump(time.monotonic() + _REPLY_SECONDS)
            except OSError as error:
                raise ConnectionLostError from error

    def _pump(self, until: float) -> bool:
        """Wait a little for bytes to come or to go; whether any came."""
        self._poller.modify(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        events = self._poller.poll(_SLICE_SECONDS * 1000)
        if not events:
            self._check_alive()
            if time.monotonic() > until:
                method = self._pending[0][1].method if self._pending else "the loss of the connection"
                raise DeviationError(f"{method} was not answered within {_REPLY_SECONDS:g} s")
            return False
        mask = events[0][1]
        if mask & select.POLLOUT and not mask & select.POLLERR:
            self._push()
        if not mask & ~select.POLLOUT:
            return False
        try:
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLostError from error
        if not data:
            raise ConnectionLostError
        for incoming in self._reader.feed(data):
            if isinstance(incoming, Spoilt):
                raise DeviationError(f"the machine sent {incoming.why}")
            self._take(incoming.members, incoming.blob)
        return True

    def _take(self, members: Mapping[str, Any], blob: bytes | None) -> None:
        if "vector_boot" in members or members.get("id") == _POSTED:
            return
        if not self._pending or members.get("id") != self._pending[0][0]:
            raise DeviationError(f"out of turn the machine sent {members!r:.200}")
        _, request = self._pending.popleft()
        self._on_answer(request, (members, blob))


def _encode(number: int, request: Request) -> bytes:
    members = {"jsonrpc": "2.0", "id": number, "method": request.method, "params": request.params}
    data = encode(members, request.blob or None)
    # The last byte is the blob's: flipped, it does not fit its CRC.
    return data[:-1] + bytes([data[-1] ^ 1]) if request.wrong_crc else data
