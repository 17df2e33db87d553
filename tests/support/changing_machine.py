"""A scripted machine that stores changes and uploads by id, and what may go wrong with its replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.scripted_peer import GREETING, HELLO, Answer, Host, Peer
from vboot.client import connection, session
from vboot.client.machine import MachineClient
from vboot.protocol.framing import Message
from vboot.weights.edits import Dense, Seeded

NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=0.01, scale=1e-3)
LARGE = Dense("w", 0, bytes(range(256)) * 10_000)
"""2,560,000 bytes: three pieces."""


def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client look for lost replies and connections after hundredths of a second."""
    monkeypatch.setattr(session, "_HELLO_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(session, "_CONNECT_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(connection, "_SLICE_SECONDS", 0.01)


class Model:
    """A machine that stores generations and uploads by id; `upsets` replace its replies."""

    def __init__(self) -> None:
        self.generation = 2
        self.made: dict[str, tuple[dict[str, Any], bytes | None, dict[str, Any]]] = {}
        self.uploads: dict[str, bytes] = {}
        self.upsets: dict[str, deque[Answer | None]] = {}
        self.requests: list[Message] = []
        self.host = Host(
            hello=self.hello, mutate=self.mutate, rollback=self.rollback, upload=self.upload, promote=self.promote
        )

    def machine(self) -> MachineClient:
        return MachineClient(self.host.open, timeout=60)

    def upset(self, method: str, *upsets: Answer | None) -> None:
        """What to do instead of replying, one after the other (None: reply)."""
        self.upsets[method] = deque(upsets)

    def params(self, method: str) -> list[dict[str, Any]]:
        return [dict(m.members["params"]) for m in self.requests if m.members["method"] == method]

    def hello(self, peer: Peer, message: Message) -> None:
        peer.reply(message, dict(HELLO) | {"generation": self.generation})

    def upload(self, peer: Peer, message: Message) -> None:
        params = message.members["params"]
        sent = self.uploads.get(params["upload"], b"")
        if params["offset"] > len(sent):
            return self.answer(peer, message, lambda: peer.refuse(message, 1012))
        if not sent[params["offset"] :].startswith(message.blob or b""):  # a repeated piece changes nothing
            self.uploads[params["upload"]] = sent[: params["offset"]] + (message.blob or b"")
        received = len(self.uploads[params["upload"]])
        return self.answer(peer, message, lambda: peer.reply(message, {"received": received}))

    def mutate(self, peer: Peer, message: Message) -> None:
        blob = message.blob
        if "upload" in message.members.get("blob", {}):
            blob = self.uploads.pop(message.members["blob"]["upload"], None)
            if blob is None:
                return self.answer(peer, message, lambda: peer.refuse(message, 1012))
        return self.change(
            peer, message, blob, lambda g: {"id": message.members["params"]["id"], "generation": g,
                                            "changed": {"tensors": 1, "bytes": 4}, "durable": False, "replayed": False}
        )  # fmt: skip

    def rollback(self, peer: Peer, message: Message) -> None:
        to = message.members["params"]["to"]
        self.change(peer, message, None, lambda g: {"generation": g, "restored": to, "replayed": False})

    def promote(self, peer: Peer, message: Message) -> None:
        self.answer(peer, message, lambda: peer.reply(message, {"promoted": message.members["params"]["generation"]}))

    def change(self, peer: Peer, message: Message, blob: bytes | None, make: Callable[[int], dict[str, Any]]) -> None:
        params = dict(message.members["params"])
        if params["id"] not in self.made:
            self.generation += 1
            self.made[params["id"]] = (params, blob, make(self.generation))
            result = self.made[params["id"]][2]
        else:
            before, blob_before, result = self.made[params["id"]]
            assert (before, blob_before) == (params, blob), "the same id with other content"
            result = result | {"replayed": True}
        self.answer(peer, message, lambda: peer.reply(message, result))

    def answer(self, peer: Peer, message: Message, usual: Callable[[], None]) -> None:
        self.requests.append(message)
        waiting = self.upsets.get(message.members["method"])
        upset = waiting.popleft() if waiting else None
        if upset is None:
            usual()
        else:
            upset(peer, message)

    def forget(self, peer: Peer, _message: Message) -> None:
        """The worker dies: uploads are gone, what was accepted is not."""
        self.uploads.clear()
        peer.say(GREETING)


def silence(_peer: Peer, _message: Message) -> None:
    """The reply is lost."""


def hang_up(peer: Peer, _message: Message) -> None:
    peer.ended = True


def half_a_reply(peer: Peer, _message: Message) -> None:
    peer.say(b'{"jsonrpc":"2.0","id":"00' + GREETING)


def refuse(code: int, data: Any) -> Answer:
    def answer(peer: Peer, message: Message) -> None:
        peer.refuse(message, code, data=data)

    return answer


UPSETS: dict[str, Answer] = {
    "restart": lambda peer, _message: peer.say(GREETING),
    "hung up": hang_up,
    "half a reply": half_a_reply,
    "silence": silence,
}
