"""Requests sent all at once over one connection, and answered in order: what a client with much to do sends."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vboot.client.link import SocketLink
from vboot.client.session import PROTOCOL
from vboot.errors import VbootError
from vboot.protocol.errors import MachineTimeoutError, ProtocolError
from vboot.protocol.framing import RESYNC, Message, Reader, encode
from vboot.weights.edits import Edit, pack

MOST = 64
"""The number of waiting requests at which a machine stops reading."""
_REPLY_SECONDS = 60.0


class PipelinedClient:
    """A connection to the machine at a socket, beside its ordinary client. A context manager."""

    def __init__(self, path: Path) -> None:
        self._numbers = itertools.count(1)
        self._reader = Reader()
        self._link = SocketLink(path, time.monotonic() + _REPLY_SECONDS)
        self._messages = self._received()
        hello = _request("hello", "hello", {"protocol": PROTOCOL, "client": "bench"}, b"")
        self._link.send(RESYNC + hello, time.monotonic() + _REPLY_SECONDS)
        self._await(["hello"])

    def mutate(self, edits: Sequence[Edit], *, generation: int) -> float:
        """Make each edit a mutation of its own, all sent at once: the seconds until all are answered.

        `generation` is the machine's before the first of them. Raises VbootError if one is refused.
        """
        requests = bytearray()
        awaited = []
        for base, edit in enumerate(edits, generation):
            members, data = pack([edit])
            params = {"id": secrets.token_hex(16), "base_generation": base, "confidence": 0.9, "edits": members}
            awaited.append(str(next(self._numbers)))
            requests += _request(awaited[-1], "mutate", params, data)
        start = time.perf_counter()
        self._link.send(bytes(requests), time.monotonic() + _REPLY_SECONDS)
        self._await(awaited)
        return time.perf_counter() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def _await(self, idents: Iterable[str]) -> None:
        for ident in idents:
            reply = next(message for message in self._messages if message.members.get("id") == ident)
            if "error" in reply.members:
                raise VbootError(f"a pipelined request was refused: {reply.members['error']}")

    def _received(self) -> Iterator[Message]:
        while True:
            data = self._link.receive(time.monotonic() + _REPLY_SECONDS)
            if not data:
                raise MachineTimeoutError(f"no reply within {_REPLY_SECONDS:g} s", remedy="see the machine's log")
            for incoming in self._reader.feed(data):
                if not isinstance(incoming, Message):
                    raise ProtocolError(f"the machine sent {incoming.why}", remedy="report this bug")
                yield incoming


def _request(ident: str, method: str, params: Mapping[str, Any], data: bytes) -> bytes:
    return encode({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}, data or None)
