"""The appliance on Debian's kernel: what it says and does over its evolution port, from first beat to power-off."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from qemu import console
from qemu.machine import VirtualMachine
from tests.boot.conftest import Image, SharedMachine
from tests.support.evolution_port.expect import EvolutionPort

PHASES = ["start", "mounts", "runtime", "tensors", "evolution", "heartbeat"]
UNPROTECTED_OWN = [f"evolved.{slot}" for slot in range(8)]


def result(port: EvolutionPort, method: str, **params: Any) -> dict[str, Any]:
    reply = port.request(method, params)
    assert reply.error is None, reply.error
    assert reply.result is not None
    return reply.result


def error(port: EvolutionPort, method: str, **params: Any) -> int:
    reply = port.request(method, params)
    assert reply.error is not None, reply.result
    return int(reply.error["code"])


def mmio(port: EvolutionPort) -> tuple[int, ...]:
    blob = port.request("read", {"tensor": "hw.mmio", "bytes": 4096}).blob
    assert blob is not None
    return struct.unpack("<1024I", blob)


@pytest.fixture(scope="module")
def shared(minilm: Image) -> Iterator[SharedMachine]:
    with SharedMachine(minilm.spec()) as machine:
        yield machine


@pytest.fixture
def machine(shared: SharedMachine) -> VirtualMachine:
    return shared.machine()


@pytest.fixture
def port(shared: SharedMachine) -> EvolutionPort:
    return shared.port()


def test_boot_phases_come_in_the_documented_order(machine: VirtualMachine, port: EvolutionPort) -> None:
    machine.wait_for_console(r"phase=heartbeat t_us=[0-9]+\s")
    seen = machine.console.read_bytes()
    assert list(console.phases(seen)) == PHASES
    assert list(console.phases(seen).values()) == sorted(console.phases(seen).values())
    assert console.milestones(seen) == console.MILESTONES
    stats = result(port, "stats")
    assert list(stats["phases"]) == sorted(PHASES)
    assert stats["phases"] == console.phases(seen)


def test_hello_and_stats_match_the_image(port: EvolutionPort, minilm: Image) -> None:
    hello = result(port, "hello", protocol=1, client="test")
    rts = minilm.rts.read_bytes()
    size = int.from_bytes(rts[16:24], "big")
    assert hello["build"] == hashlib.sha256(rts[512 : 512 + size]).hexdigest()[:12]
    assert (hello["emergency"], hello["generation"], hello["signed"]) == (None, 0, False)
    stats = result(port, "stats")
    assert stats["supervisor"]["pid"] == 1
    assert stats["state"] == "beating"
    assert 200 << 20 < stats["memory"]["total_bytes"] < 256 << 20
    assert 0 < stats["supervisor"]["anon_bytes"] + stats["worker"]["anon_bytes"] < 5 << 20


def test_device_page_registers_are_updated(port: EvolutionPort) -> None:
    before = mmio(port)
    assert before[:2] == (0x56424F54, 1)
    assert before[4] == 100
    assert before[40:48] == (0xFFFFFFFF,) * 8
    result(port, "interrupt", vector=7)
    while (after := mmio(port))[7] == before[7] or after[2] < before[2] + 10:
        time.sleep(0.05)
    # Beats are never ahead of the clock, whose register counts whole seconds.
    assert after[2] <= 10 * (after[7] + 1)
    assert after[8] == 7
    assert after[9] == before[9] + 1
    assert after[16] > 200_000
    assert 0 < after[17] < after[16]
    assert after[21] > 1
    assert after[23] == 1
    assert after[32:40] == (0,) * 8


def test_the_tensors_are_those_of_the_file(port: EvolutionPort, minilm: Image) -> None:
    rows = result(port, "tensors")["tensors"]
    reader = GGUFReader(minilm.folder / "vectorland.gguf")
    assert [row["name"] for row in rows] == [tensor.name for tensor in reader.tensors]
    assert {row["name"] for row in rows if row["protected"]} == {
        "hw.mmio", "cortex_journal", *(f"kernel.{slot}" for slot in range(8)),
    }  # fmt: skip
    digest = result(port, "digest")
    model = hashlib.sha256()
    contents = {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}
    for row in sorted(rows, key=lambda row: str(row["name"]).encode()):
        if not row["protected"]:
            model.update(row["name"].encode() + b"\0" + hashlib.sha256(contents[row["name"]]).digest())
    assert digest["model"] == model.hexdigest()
    name = "blk.3.attn_q.weight"
    assert digest["sha256"][name] == hashlib.sha256(contents[name]).hexdigest()
    part = port.request("read", {"tensor": name, "offset": 1000, "bytes": 500}).blob
    assert part == contents[name][1000:1500]


def test_an_interrupt_does_not_wait_for_the_next_beat(port: EvolutionPort) -> None:
    """If they waited for the next beat, there would be a beat for each."""
    before = result(port, "stats")["heartbeats"]
    for vector in range(200):
        assert result(port, "interrupt", vector=vector)["acknowledged"]
    assert result(port, "stats")["heartbeats"] - before < 100


def test_invalid_requests_get_their_error_codes(port: EvolutionPort) -> None:
    assert error(port, "read", tensor="nonesuch", bytes=1) == 1001
    assert error(port, "read", tensor="hw.mmio", offset=4096, bytes=1) == 1003
    assert error(port, "read", tensor="hw.mmio", bytes=(1 << 20) + 1) == 1012
    assert error(port, "stats", verbose=True) == -32602
    assert error(port, "fault", what="segv") == -32601
    port.send_raw(b"nonsense\n")
    reply = port.reply(None)
    assert reply.error is not None
    assert reply.error["code"] == -32700


def test_heartbeat_events_are_consecutive(port: EvolutionPort) -> None:
    port.events.clear()
    result(port, "subscribe", events=["heartbeat"])
    while len(port.events) < 8:
        result(port, "stats")
        time.sleep(0.05)
    result(port, "subscribe", events=[])
    beats = [event["params"]["beats"] for event in port.events]
    assert beats == list(range(beats[0], beats[0] + len(beats)))
    late = result(port, "stats")["heartbeat_late_us"]
    assert late["p50"] <= late["p99"] <= late["p999"] <= late["max"]


def test_shutdown_powers_off_without_a_panic(machine: VirtualMachine, port: EvolutionPort) -> None:
    port.shutdown()
    assert machine.wait_exit() == 0
    said = machine.console.read_bytes()
    assert said.index(b"vector_boot: stopping") < said.index(b"vector_boot: powering off")
    assert b"Kernel panic" not in said


def test_the_run_folder_holds_all_logs(machine: VirtualMachine) -> None:
    names = {path.name for path in Path(machine.run).iterdir()}
    assert {"console.log", "qemu.log", "channel.jsonl", "command.txt", "machine.json"} <= names
