"""The runtime beside this program: the real library, real crashes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.compose import compose
from vboot.client.bridge import Fault, RustNeuralBridge
from vboot.client.bridge_packets import Kind, Packet, cut, encode
from vboot.client.bridge_process import BridgeProcess
from vboot.client.bridge_slots import SLOTS, SlotReader, Slots
from vboot.client.machine import MachineClient
from vboot.errors import InputError, VbootError
from vboot.protocol.errors import (
    BridgeCrashedError,
    BridgeTimeoutError,
    LinkLostError,
    MachineError,
    RequestRefusedError,
)
from vboot.protocol.tables import BLOB_LIMIT, LINE_LIMIT

QUERY = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose("tiny", tmp_path_factory.mktemp("model") / "tiny.gguf", type="Q8_0").path


@pytest.fixture
def bridge(library: Path) -> Iterator[RustNeuralBridge]:
    with RustNeuralBridge(library=library, faults=True) as bridge:
        bridge.initialize()
        yield bridge


@pytest.fixture
def machine(bridge: RustNeuralBridge) -> Iterator[MachineClient]:
    with bridge.client() as machine:
        yield machine


def mutate(machine: MachineClient, *, seed: int = 1, base: int | None = None, **more: object) -> int:
    """A mutation of many weights; its generation."""
    edit = {"kind": "seeded", "tensors": QUERY, "seed": f"{seed:016x}", "form": "normal", "density": 0.5, "scale": 0.25}
    base = machine.hello().generation if base is None else base
    params = {"id": secrets.token_hex(16), "base_generation": base, "confidence": 0.9, "edits": [edit], **more}
    generation = machine.request("mutate", params).result["generation"]
    assert isinstance(generation, int)
    return generation


def test_the_client_of_a_booted_machine_works_over_the_bridge(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    assert machine.hello().emergency is None
    assert len(machine.tensors()) == 37 + 18
    base = machine.digest().model
    data = machine.read(QUERY).data
    assert data == bridge.tensor(QUERY).tobytes()
    assert mutate(machine) == 1
    assert machine.digest().model != base
    machine.rollback(0)
    assert machine.digest().model == base
    stats = machine.stats()
    assert (stats.state, stats.mutations.accepted, stats.mutations.rolled_back) == ("beating", 1, 1)
    assert stats.worker.pid == bridge.pid
    assert machine.interrupt(7).vector == 7
    assert machine.request("history").result["records"]


def test_what_has_no_meaning_in_process_is_refused(machine: MachineClient) -> None:
    for method, params in (("subscribe", {"events": []}), ("shutdown", {}), ("fault", {"what": "segv"})):
        with pytest.raises(RequestRefusedError) as refused:
            machine.request(method, params)
        assert refused.value.code == -32601


def test_views_are_the_live_weights_and_cannot_be_written(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    view, before = bridge.tensor(QUERY), bridge.tensor(QUERY).copy()
    assert (str(view.dtype), view.shape, view.flags.writeable) == ("float16", (64, 64), False)
    assert bridge.tensor("token_embd.weight").shape == (409, 64)
    mutate(machine)
    changed = np.count_nonzero(view != before)
    assert 0.3 < changed / view.size < 0.6
    assert hashlib.sha256(view.tobytes()).hexdigest() == machine.digest([QUERY]).sha256[QUERY]
    page, ring = bridge.tensor("hw.mmio"), bridge.tensor("cortex_journal")
    assert (*page[[0, 1, 11]], str(page.dtype), page.shape) == (0x56424F54, 1, 1, "int32", (1024,))
    assert ring[:4].tobytes() == b"CJ01"
    assert ring.shape == (1 << 20,)
    with pytest.raises(InputError, match="no tensor"):
        bridge.tensor("frob")


def test_a_model_of_blocks_is_seen_as_bytes(library: Path, model: Path) -> None:
    with RustNeuralBridge(library=library) as bridge, pytest.raises(InputError, match="initialize"):
        bridge.tensor(QUERY)
    with RustNeuralBridge(library=library) as bridge:
        bridge.initialize(model)
        place = bridge.tensors()[QUERY]
        assert (place.type, place.shape, str(bridge.tensor(QUERY).dtype)) == ("Q8_0", (64, 64), "uint8")
        assert model.read_bytes()[place.offset : place.offset + place.bytes] == bridge.tensor(QUERY).tobytes()
        view = bridge.tensor(QUERY)
    assert view.size == place.bytes, "a view outlives its bridge"


def test_messages_with_a_blob_go_through_shared_memory() -> None:
    slots = Slots()
    reader = SlotReader(slots.descriptor)

    def read(place: bytes | None) -> bytes:
        assert place is not None
        return ctypes.string_at(*reader.find(place))

    places = [slots.put(number, b"line %d" % number, memoryview(b"blob")) for number in range(SLOTS)]
    assert [read(place) for place in places] == [b"line %dblob" % number for number in range(SLOTS)]
    assert slots.put(9, b"no", b"slot") is None
    slots.release(3)
    slots.release(3)
    assert slots.put(9, b"line 9", b"blob") == places[3]
    assert slots.put(10, b"no", b"slot") is None
    slots.release(9)
    assert slots.put(11, b"", bytes(LINE_LIMIT + BLOB_LIMIT + 3 * 4096)) is None
    assert read(slots.put(12, bytes(LINE_LIMIT), bytes(BLOB_LIMIT))) == bytes(LINE_LIMIT + BLOB_LIMIT)
    with pytest.raises(ValueError, match="outside the shared memory"):
        reader.find(struct.pack("<II", 0, 1 << 31))
    slots.close()


def test_large_changes_over_the_bridge(
    bridge: RustNeuralBridge, machine: MachineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    whole = BridgeProcess.send

    def send(self: BridgeProcess, packet: Packet, deadline: float) -> None:
        sent.append(len(packet.data))
        whole(self, packet, deadline)

    monkeypatch.setattr(BridgeProcess, "send", send)
    data = np.random.default_rng(1).normal(size=1 << 20).astype("<f4").tobytes()
    assert machine.upload(data) != machine.upload(data[: BLOB_LIMIT + 1])
    assert len(sent) > 4
    assert max(sent) < 1000, "bytes of a blob were sent through the socket"


def test_programs_run_and_leave_a_result(bridge: RustNeuralBridge) -> None:
    program = np.array([[1, 2, 3], [250, 0x02, 0], [250, 0x0D, 0]])
    assert bridge.execute_pixels(program) is True
    assert np.frombuffer(bridge.get_result(), "<f4").tolist() == [1, 2, 3]
    with pytest.raises(MachineError, match="refuses"):
        bridge.execute_pixels(bytes([250, 0x0B, 0]))
    assert len(bridge.get_result()) == 12
    assert bridge.get_stats().programs == 1
    bridge.inject_fault("segv-before")
    with pytest.raises(BridgeCrashedError):
        bridge.execute_pixels(program)
    assert bridge.get_stats().programs == 1
    with pytest.raises(MachineError, match="no pixel program"):
        bridge.get_result()


def test_an_invalid_program_is_refused_by_the_bridge(bridge: RustNeuralBridge) -> None:
    with pytest.raises(InputError, match="whole pixels"):
        bridge.execute_pixels(b"\1\2")
    with pytest.raises(MachineError, match="more than the limit of 349525"):
        bridge.execute_pixels(bytes(3 * 349_526))
    with pytest.raises(InputError, match="0 to 255"):
        bridge.execute_pixels([[250, 256, 0]])


def test_stats_count(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    before = bridge.get_stats()
    assert (before.generation, before.changed_bytes, before.interrupts) == (0, 0, 0)
    assert before.tensor_bytes == sum(place.bytes for place in bridge.tensors().values())
    base = bridge.tensor(QUERY).tobytes()
    mutate(machine)
    machine.interrupt(3)
    with pytest.raises(RequestRefusedError):
        mutate(machine, base=9)
    after = bridge.get_stats()
    differing = sum(old != new for old, new in zip(base, bridge.tensor(QUERY).tobytes(), strict=True))
    assert (after.generation, after.changed_bytes, after.interrupts) == (1, differing, 1)
    assert (after.mutations_accepted, after.mutations_refused) == (1, 1)
    assert after.uptime_us > before.uptime_us


@pytest.mark.parametrize("fault", ["segv-before", "segv-after"])
def test_acknowledged_changes_survive_a_crash(bridge: RustNeuralBridge, machine: MachineClient, fault: Fault) -> None:
    mutate(machine, seed=1)
    digest, view = machine.digest().model, bridge.tensor(QUERY)
    first, restarts = bridge.pid, machine.stats().worker.restarts
    bridge.inject_fault(fault)
    assert mutate(machine, seed=2, base=1) == 2, "repeated by its id, and made once"
    assert bridge.pid != first
    assert bridge.get_stats().mutations_accepted == 2
    assert machine.stats().worker.restarts == restarts + 1
    assert hashlib.sha256(view.tobytes()).hexdigest() == machine.digest([QUERY]).sha256[QUERY]
    machine.rollback(1)
    assert machine.digest().model == digest


@pytest.mark.parametrize("fault", ["segv-before", "segv-after"])
def test_the_call_under_way_in_a_crash_fails_if_it_cannot_be_repeated(
    bridge: RustNeuralBridge, machine: MachineClient, fault: Fault
) -> None:
    mutate(machine)
    digest = machine.digest().model
    bridge.inject_fault(fault)
    with pytest.raises(BridgeCrashedError, match="signal 11"):
        machine.interrupt()
    assert machine.digest().model == digest


def test_a_call_that_changes_nothing_is_repeated_by_itself(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    mutate(machine)
    bridge.inject_fault("segv-before")
    assert machine.stats().generation == 1


def test_a_crash_in_a_call_of_the_bridge(bridge: RustNeuralBridge) -> None:
    bridge.inject_fault("segv-before")
    with pytest.raises(BridgeCrashedError, match="signal 11"):
        bridge.get_stats()
    assert bridge.get_stats().generation == 0


def test_a_process_killed_between_two_calls_is_replaced(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    mutate(machine)
    assert bridge.pid is not None
    os.kill(bridge.pid, signal.SIGKILL)
    with suppress(LinkLostError):  # unless the end was noticed in time
        mutate(machine, base=1)
    assert bridge.get_stats().generation in {1, 2}
    assert machine.hello().generation == bridge.get_stats().generation


def test_a_hung_process_is_killed_at_the_deadline(library: Path) -> None:
    with RustNeuralBridge(library=library, faults=True) as bridge:
        bridge.initialize()
        bridge.inject_fault("hang")
        bridge.timeout = 0.5
        start = time.monotonic()
        with pytest.raises(BridgeTimeoutError):
            bridge.get_stats()
        assert time.monotonic() - start > 0.45
        bridge.timeout = 60
        assert bridge.get_stats().generation == 0


def test_a_process_that_hangs_in_a_request_is_killed_when_its_client_has_given_up(bridge: RustNeuralBridge) -> None:
    with bridge.client() as machine:
        mutate(machine)
        hung = bridge.pid
        bridge.inject_fault("hang")
        with pytest.raises(VbootError):
            machine.request("interrupt", {}, timeout=0.5)
        assert machine.hello().generation == 1
        assert bridge.pid != hung


def test_faults_are_refused_unless_enabled(library: Path) -> None:
    with RustNeuralBridge(library=library) as bridge:
        bridge.initialize()
        with pytest.raises(MachineError, match="switched off"):
            bridge.inject_fault("segv-before")


def test_a_lease_expires_without_any_request(bridge: RustNeuralBridge, machine: MachineClient) -> None:
    view, before = bridge.tensor(QUERY), bridge.tensor(QUERY).copy()
    mutate(machine, lease_ms=3_600_000)
    assert (view != before).any()
    machine.renew(1, 500)
    deadline = time.monotonic() + 60
    while (view != before).any():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert machine.hello().generation == 2


def test_a_bad_model_does_not_replace_the_loaded_one(bridge: RustNeuralBridge, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(model.read_bytes()[:5000])
    for path in (bad, tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(InputError, match="does not load"):
            bridge.initialize(path)
    assert bridge.tensors()[QUERY].type == "F16"
    assert bridge.get_stats().generation == 0
    bridge.initialize(str(model))
    assert bridge.tensors()[QUERY].type == "Q8_0"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VECTOR_BOOT_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(InputError, match=r"none\.so.*VECTOR_BOOT_LIBRARY"):
        RustNeuralBridge().initialize()
    (tmp_path / "none.so").write_bytes(b"no library")
    for bridge in (RustNeuralBridge(), RustNeuralBridge(library=str(tmp_path / "gone.so"))):
        with pytest.raises(InputError, match=r"library of the runtime does not load.*make image.*VECTOR_BOOT_LIBRARY"):
            bridge.initialize()


def test_the_process_ends_with_its_parent_even_while_it_hangs(library: Path) -> None:
    program = f"""
import os, threading
from pathlib import Path
from vboot.client.bridge import RustNeuralBridge
bridge = RustNeuralBridge(library=Path({str(library)!r}), faults=True)
bridge.initialize()
bridge.inject_fault("hang")
threading.Thread(target=bridge.get_stats, daemon=True).start()
print(bridge.pid, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "State:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_close_releases_all_resources(library: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with RustNeuralBridge(library=library) as bridge:
            bridge.initialize()
            pid = bridge.pid
            with bridge.client() as machine:
                machine.hello()
        assert not Path(f"/proc/{pid}").exists()
    assert len(set(Path("/proc/self/fd").iterdir()) - before) == 0


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.binary(max_size=40))),
    st.integers(1, 30),
)
def test_packets_are_read_whole_from_any_pieces(sent: list[tuple[Kind, int, bytes]], step: int) -> None:
    packets = [Packet(*packet) for packet in sent]
    stream, buffer, found = b"".join(map(encode, packets)), bytearray(), []
    for start in range(0, len(stream), step):
        buffer += stream[start : start + step]
        while (packet := cut(buffer)) is not None:
            found.append(packet)
    assert found == packets
    assert not buffer


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=64))
def test_invalid_packets_are_refused(data: bytes) -> None:
    buffer = bytearray(data)
    with suppress(ValueError):
        while (packet := cut(buffer)) is not None:
            assert data.startswith(encode(packet))
            data = data[len(encode(packet)) :]
    assert buffer == data
