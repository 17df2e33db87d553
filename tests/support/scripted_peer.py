"""A scripted machine in this process: a test chooses the answer to each request."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from vboot.client.requests import Reply
from vboot.client.session import Session
from vboot.protocol.errors import LinkLostError
from vboot.protocol.framing import Bytes, Incoming, Message, Reader, encode

HELLO: Mapping[str, Any] = {
    "version": "0.1.0",
    "protocol": 1,
    "build": "0123456789ab",
    "generation": 2,
    "promoted": 1,
    "signed": False,
    "emergency": None,
    "durable": True,
    "limits": {"line": 65536, "blob": 1048576, "upload": 1073741824, "edits": 256},
}
GREETING = encode({"vector_boot": {"version": "0.1.0", "protocol": 1, "build": "0" * 12, "generation": 0}})
REFUSAL_DATA: Mapping[str, Any] = {"n": 1}
Answer = Callable[["Peer", Message], None]


def beat(number: int) -> bytes:
    return encode({"jsonrpc": "2.0", "method": "event", "params": {"kind": "heartbeat", "beats": number, "late_us": 0}})


class Peer:
    """One connection to a machine; `answers` says what it does with a method other than hello."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[Message] = []
        self.closed = self.ended = False
        self.to_say: deque[bytes] = deque()
        self._reader = Reader()

    def say(self, data: bytes) -> None:
        self.to_say.append(data)

    def reply(self, message: Message, result: dict[str, Any] | None = None, blob: bytes | None = None) -> None:
        self.say(encode({"jsonrpc": "2.0", "id": message.members["id"], "result": result or {}}, blob))

    def refuse(self, message: Message | None, code: int, *, data: Any = REFUSAL_DATA) -> None:
        ident = message.members["id"] if message else None
        self.say(encode({"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": "no", "data": data}}))

    def send(self, data: bytes, _deadline: float, blob: Bytes = b"") -> None:
        data += blob
        if self.ended:
            raise LinkLostError("the peer is gone")
        if data.startswith(b"\xff"):
            data = data[1:]
            self._reader = Reader()
            self.say(GREETING)
        for message in self._read(data):
            assert isinstance(message, Message)
            self.requests.append(message)
            method = message.members["method"]
            if method in self.answers:
                self.answers[method](self, message)
            elif method == "hello":
                self.reply(message, dict(HELLO))
            else:
                self.reply(message)

    def _read(self, data: bytes) -> Iterable[Incoming]:
        # Only clients announce uploads, so the reader of the client does not accept them.
        return [Message(json.loads(data))] if b'"blob":{"upload":' in data[:65536] else self._reader.feed(data)

    def receive(self, deadline: float) -> bytes:
        assert not self.closed
        if self.to_say:
            return self.to_say.popleft()
        if self.ended:
            raise LinkLostError("the peer is gone")
        time.sleep(max(0.0, deadline - time.monotonic()))
        return b""

    def close(self) -> None:
        self.closed = True

    def methods(self) -> list[str]:
        return [str(message.members["method"]) for message in self.requests]


class Host:
    """Accepts connections: `peers` holds all of them; with `gone` set, connecting fails."""

    SOON: ClassVar[float] = 60.0

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.peers: list[Peer] = []
        self.gone = False
        self.session = Session(self.open, client="test")

    def open(self, _deadline: float) -> Peer:
        if self.gone:
            raise LinkLostError("no machine listens")
        self.peers.append(Peer(self.answers))
        return self.peers[-1]

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    def established(self) -> Host:
        self.session.establish(self.soon())
        return self

    def request(self, method: str, *, seconds: float = SOON) -> Reply:
        return self.session.request(method, {}, None, time.monotonic() + seconds)

    def soon(self) -> float:
        return time.monotonic() + self.SOON
