"""Records of past changes: `history`, the ring in `cortex_journal`, the device page."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

from tests.conformance.acts import crash, generation, mutate, promote, rollback, state
from tests.conformance.client import Client, crc32c, message, new_id
from tests.conformance.expected import sparse

KINDS = {
    1: "mutate", 2: "rollback", 3: "promote", 4: "lease_expired", 5: "checkpoint", 6: "worker_restart", 7: "boot",
}  # fmt: skip
_RING = ((1 << 20) - 64) // 64
_EDIT = sparse("w.F32", "set", [0], [0.5])


@dataclass(frozen=True)
class Record:
    """One record of the ring, in the words of `history`."""

    kind: str
    verdict: str
    code: int
    generation: int
    uptime_us: int
    id: str
    edits: int
    changed_bytes: int
    origin: str


def _page(client: Client, start: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    got = client.result("history", **{"from": start, "limit": limit})
    return got["records"], got["next"]


def history(client: Client) -> list[dict[str, Any]]:
    """All records, page by page."""
    records, following = _page(client, 0, 100)
    while following is not None:
        more, following = _page(client, following, 100)
        records += more
    return records


def ring(client: Client) -> tuple[int, list[Record]]:
    """Records ever written, and those still in the ring, oldest first; every CRC is checked."""
    data = client.ask("read", {"tensor": "cortex_journal", "bytes": 1 << 20}).blob
    assert data is not None
    magic, size, ever = struct.unpack_from("<4sIQ", data)
    assert (magic, size, data[16:64]) == (b"CJ01", 64, bytes(48))
    records = []
    for number in range(max(0, ever - _RING), ever):
        raw = data[64 + number % _RING * 64 :][:64]
        crc, kind, verdict, code, at, uptime, ident, edits, changed = struct.unpack_from("<IBBHQQ16sII", raw)
        assert crc == crc32c(raw[4:]), f"record {number}"
        text = raw[48:].rstrip(b"\0").decode()
        words = KINDS[kind], ("applied", "refused")[verdict], code, at, uptime, ident.hex(), edits, changed, text
        records.append(Record(*words))
    if ever < _RING:
        assert not any(data[64 + ever * 64 :])
    return ever, records


def registers(client: Client) -> tuple[int, ...]:
    """The words of the device page."""
    blob = client.ask("read", {"tensor": "hw.mmio", "bytes": 4096}).blob
    assert blob is not None
    return struct.unpack("<1024I", blob)


def _one_of_each(client: Client) -> None:
    base = state(client)
    assert mutate(client, _EDIT, origin="é" * 9).code == 0
    assert mutate(client, _EDIT, confidence=0.25, origin="a" + "é" * 9).code == 1006
    assert client.ask("checkpoint", {"label": "label"}).code == 0
    crash(client)
    rollback(client, base[0])
    trial = mutate(client, sparse("w.F16", "set", [5], [9.0]), lease_ms=60_000).result["generation"]
    promote(client)
    assert generation(client) == trial
    rollback(client, base[0])
    assert state(client)[1] == base[1]


def check_history_tells_what_happened(client: Client) -> None:
    base = generation(client)
    before = len(history(client))
    _one_of_each(client)
    new = history(client)[before:]
    assert [(row["kind"], row["verdict"], row["code"], row["generation"] - base) for row in new] == [
        ("mutate", "applied", 0, 1),
        ("mutate", "refused", 1006, 1),
        ("checkpoint", "applied", 0, 1),
        ("worker_restart", "applied", 0, 1),
        ("rollback", "applied", 0, 2),
        ("mutate", "applied", 0, 3),
        ("promote", "applied", 0, 3),
        ("rollback", "applied", 0, 4),
    ]
    assert [row["confidence"] for row in new[:2]] == [0.9, 0.25]
    assert [row["restored"] for row in new] == [None, None, None, None, base, None, None, base]
    assert new[0]["origin"] in ("é" * 9, "é" * 8)  # whole, or as the record keeps it
    assert new[0]["edits"] == 1
    assert 1 <= new[0]["changed_bytes"] <= 4
    assert set(new[0]) == {
        "generation", "kind", "verdict", "code", "id", "origin", "confidence", "edits", "changed_bytes", "uptime_us",
        "restored",
    }  # fmt: skip


def check_history_by_pages(client: Client) -> None:
    _one_of_each(client)
    whole = history(client)
    assert whole[0]["kind"] == "boot"
    pieces, following = _page(client, 0, 3)
    while following is not None:
        assert len(pieces) % 3 == 0
        more, following = _page(client, following, 3)
        pieces += more
    assert pieces == whole
    assert _page(client, 2, 2)[0] == whole[2:4]
    assert [row["uptime_us"] for row in whole] == sorted(row["uptime_us"] for row in whole)
    for limit in (-1, 0.5, "1"):
        assert client.ask("history", {"from": 0, "limit": limit}).code == -32602


def check_the_ring_is_the_history(client: Client) -> None:
    _one_of_each(client)
    ever, records = ring(client)
    whole = history(client)
    assert ever == len(whole)
    for record, row in list(zip(reversed(records), reversed(whole), strict=False))[:200]:
        assert (record.kind, record.verdict, record.code) == (row["kind"], row["verdict"], row["code"])
        assert (record.generation, record.uptime_us) == (row["generation"], row["uptime_us"])
        assert record.id == (row["id"] or "00" * 16)
        assert (record.edits, record.changed_bytes) == (row["edits"], row["changed_bytes"])


def check_origins_are_cut_at_a_character(client: Client) -> None:
    _one_of_each(client)
    _, records = ring(client)
    assert [record.origin for record in records[-8:-6]] == ["é" * 8, "a" + "é" * 7]


def check_what_does_not_reach_the_gate_is_no_record_of_a_change(client: Client) -> None:
    """A refusal moves the counters by one at most, and never the accepted one."""
    before = client.result("stats")["mutations"]
    assert mutate(client, _EDIT, confidence=0.1).code == 1006
    after = client.result("stats")["mutations"]
    assert after == {**before, "refused": before["refused"] + 1}


def check_counters_and_the_device_page_agree(client: Client) -> None:
    base, before = state(client), client.result("stats")["mutations"]
    assert mutate(client, _EDIT).code == 0
    assert mutate(client, _EDIT).code == 1008
    rollback(client, base[0])
    stats = client.result("stats")
    counted = {name: stats["mutations"][name] - before[name] for name in before}
    assert counted == {"accepted": 1, "refused": 1, "rolled_back": 1}
    until = time.monotonic() + client.patience
    while (page := registers(client))[11] != stats["generation"] or page[13] != stats["mutations"]["accepted"]:
        assert time.monotonic() < until, (page[:32], stats)
        time.sleep(0.02)
    assert page[:2] == (0x56424F54, 1)
    assert page[11] | page[12] << 32 == base[0] + 2
    assert page[14] == stats["mutations"]["refused"]
    assert page[21] == stats["worker"]["pid"]
    assert page[22] == stats["worker"]["restarts"]
    assert page[23] == 1


def check_a_restart_is_counted(client: Client) -> None:
    before = client.result("stats")
    crash(client)
    stats = client.result("stats")
    assert stats["worker"]["restarts"] == before["worker"]["restarts"] + 1
    assert stats["mutations"] == before["mutations"]
    assert stats["heartbeats"] >= before["heartbeats"]
    until = time.monotonic() + client.patience
    while (page := registers(client))[21] != stats["worker"]["pid"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert page[22] == stats["worker"]["restarts"]


def check_the_ring_wraps(client: Client) -> None:
    """More records than it holds: cheap refusals, 64 at a time; the newest are there and every CRC is right."""
    ever, _ = ring(client)
    params = {"id": new_id(), "base_generation": generation(client), "confidence": 0, "origin": ""}
    params["edits"] = [
        {"kind": "seeded", "tensors": "w.F32", "seed": "0" * 16, "form": "normal", "density": 1, "scale": 1}
    ]
    left = max(0, _RING + 10 - ever)
    while left > 0:
        size = min(left, 64)
        client.send(b"".join(message(number, "mutate", params) for number in range(size)))
        assert {client.reply().code for _ in range(size)} == {1006}
        left -= size
    base = state(client)
    assert mutate(client, _EDIT, origin="last").code == 0
    now, records = ring(client)
    assert now > _RING
    assert len(records) == _RING
    assert (records[-1].kind, records[-1].origin, records[-1].generation) == ("mutate", "last", base[0] + 1)
    rollback(client, base[0])
