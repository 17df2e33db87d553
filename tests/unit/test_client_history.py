"""The client reads the records of the journal page by page."""

from __future__ import annotations

import pytest

from tests.support.scripted_peer import Host, Peer
from vboot.client.machine import MachineClient
from vboot.protocol.errors import ProtocolError
from vboot.protocol.framing import Message
from vboot.protocol.messages import JournalRecord

RECORD = {
    "generation": 1, "kind": "mutate", "verdict": "applied", "code": 0, "id": "00" * 16, "origin": "o",
    "confidence": 0.9, "edits": 1, "changed_bytes": 4, "uptime_us": 7,
}  # fmt: skip


def test_history_is_paged_through() -> None:
    pages = {0: ([1, 2], 2), 2: ([3], 5), 5: ([], None)}

    def history(peer: Peer, message: Message) -> None:
        generations, following = pages[message.members["params"]["from"]]
        peer.reply(message, {"records": [RECORD | {"generation": g} for g in generations], "next": following})

    machine = MachineClient(Host(history=history).open)
    assert [record.generation for record in machine.history()] == [1, 2, 3]
    assert [record.generation for record in machine.history(2)] == [3]
    assert isinstance(next(machine.history()), JournalRecord)


def test_a_record_says_what_was_restored_unless_the_machine_is_older() -> None:
    def history(peer: Peer, message: Message) -> None:
        peer.reply(message, {"records": [RECORD, RECORD | {"restored": 4}, RECORD | {"restored": None}], "next": None})

    machine = MachineClient(Host(history=history).open)
    assert [record.restored for record in machine.history()] == [None, 4, None]


def test_a_history_that_does_not_end_is_an_error() -> None:
    host = Host(history=lambda peer, message: peer.reply(message, {"records": [], "next": 0}))
    with pytest.raises(ProtocolError, match="does not end"):
        list(MachineClient(host.open).history())


def test_a_record_without_request() -> None:
    lapsed = RECORD | {"kind": "lease_expired", "id": None, "origin": None, "confidence": None, "code": None}
    host = Host(history=lambda peer, message: peer.reply(message, {"records": [lapsed], "next": None}))
    (record,) = MachineClient(host.open).history()
    assert (record.kind, record.id, record.confidence) == ("lease_expired", None, None)
