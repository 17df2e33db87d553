"""The client against the real executable behind a Unix socket."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.local_machine import LocalMachine, local_machine, tiny_model
from tests.support.scripted_peer import Host, Peer
from vboot.client.machine import MachineClient, connect
from vboot.errors import InputError
from vboot.gguf import read_layout
from vboot.protocol.errors import LinkLostError, MachineError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import Message
from vboot.protocol.messages import Event, HeartbeatEvent
from vboot.protocol.tables import CONNECTIONS_LIMIT


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    """A machine that every test here may use, and leave as it was."""
    with local_machine(tmp_path_factory.mktemp("machine"), "--fault", "--heartbeat-ms", "20") as machine:
        yield machine


@pytest.fixture
def machine(local: LocalMachine) -> Iterator[MachineClient]:
    with connect(local.socket) as connected:
        yield connected


def in_file(name: str) -> bytes:
    data = tiny_model().read_bytes()
    tensor = next(tensor for tensor in read_layout(memoryview(data), name="tiny").tensors if tensor.name == name)
    return data[tensor.offset : tensor.offset + tensor.size]


def test_hello(machine: MachineClient) -> None:
    hello = machine.hello()
    assert hello == machine.greeted
    assert (hello.protocol, hello.generation, hello.emergency) == (1, 0, None)
    assert hello.limits.blob == 1 << 20
    assert len(hello.build) == 12


def test_stats(machine: MachineClient) -> None:
    before = after = machine.stats()
    while after.heartbeats < before.heartbeats + 3:
        after = machine.stats()
    assert (before.state, before.heartbeat_period_ms) == ("beating", 20)
    # Beats that are late are made up for, so only their number since the first one is bounded.
    assert after.uptime_us - after.phases["heartbeat"] >= (after.heartbeats - 1) * 20_000
    assert set(before.phases) == {"start", "mounts", "runtime", "tensors", "evolution", "heartbeat"}


def test_tensors_as_the_file_lists_them(machine: MachineClient) -> None:
    data = tiny_model().read_bytes()
    listed = [(t.name, t.dims, t.size) for t in read_layout(memoryview(data), name="tiny").tensors]
    tensors = machine.tensors()
    assert [(t.name, t.shape, t.bytes) for t in tensors] == listed
    assert [t.name for t in machine.tensors("kernel.")] == [f"kernel.{n}" for n in range(8)]
    assert machine.tensor("kernel.3").protected
    assert machine.tensors("no such prefix") == ()
    with pytest.raises(InputError, match="no tensor 'kernel'"):
        machine.tensor("kernel")


def test_read(machine: MachineClient) -> None:
    name = "token_embd.weight"
    whole = in_file(name)
    assert machine.read(name).data == whole
    assert machine.read(name, offset=3, size=5).data == whole[3:8]
    assert machine.read(name, offset=len(whole) - 1).data == whole[-1:]
    words = np.frombuffer(machine.read("hw.mmio").data, "<u4")
    assert words[0] == 0x56424F54


def test_a_range_longer_than_a_blob_is_read_in_pieces(tmp_path: Path) -> None:
    values = np.arange(700_000, dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "unknown")
    writer.add_tensor("large", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with local_machine(tmp_path, model=tmp_path / "large.gguf") as local, connect(local.socket) as machine:
        assert machine.read("large").data == values.tobytes()
        assert machine.read("large", offset=5, size=(2 << 20) + 1).data == values.tobytes()[5 : (2 << 20) + 6]
        with pytest.raises(RequestRefusedError) as caught:
            machine.read("large", offset=values.nbytes - (1 << 20), size=(1 << 20) + 1)
        assert caught.value.code == 1003


def reading(generations: Iterator[int]) -> MachineClient:
    """A machine whose weights are of another generation each time that a piece of them is read."""

    def read(peer: Peer, message: Message) -> None:
        params = message.members["params"]
        generation = next(generations)
        peer.reply(message, {**params, "generation": generation}, bytes([generation]) * params["bytes"])

    return MachineClient(Host(read=read).open)


def test_pieces_of_two_generations_are_not_mixed() -> None:
    size = (1 << 20) + 3
    piece = reading(iter([1, 2, 2, 3, 3, 3])).read("w", size=size)
    assert (piece.generation, piece.data) == (3, b"\3" * size)
    with pytest.raises(MachineError, match="kept changing"):
        reading(itertools.count()).read("w", size=size)


def test_a_piece_of_another_length_is_an_error() -> None:
    def read(peer: Peer, message: Message) -> None:
        peer.reply(message, {**message.members["params"], "generation": 0}, b"xy")

    with pytest.raises(ProtocolError, match="did not send the 3 bytes"):
        MachineClient(Host(read=read).open).read("w", size=3)


def test_a_list_of_tensors_that_does_not_end_is_an_error() -> None:
    def tensors(peer: Peer, message: Message) -> None:
        peer.reply(message, {"tensors": [], "next": "1"})

    with pytest.raises(ProtocolError, match="does not end"):
        MachineClient(Host(tensors=tensors).open).tensors()


@pytest.mark.parametrize(
    ("tensor", "offset", "size", "code"),
    [("nothing", 0, 1, 1001), ("hw.mmio", 4096, 1, 1003), ("hw.mmio", -1, 4, -32602)],
)
def test_read_of_what_is_not_there(machine: MachineClient, tensor: str, offset: int, size: int, code: int) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        machine.read(tensor, offset=offset, size=size)
    assert caught.value.code == code


def test_an_empty_range_is_read_without_bytes(machine: MachineClient) -> None:
    end = machine.tensor("hw.mmio").bytes
    for offset, size in ((0, 0), (end, 0), (end, None)):
        piece = machine.read("hw.mmio", offset=offset, size=size)
        assert (piece.data, piece.generation) == (b"", machine.hello().generation)
    for size in (0, None):
        with pytest.raises(InputError, match=f"byte {end + 1} lies outside 'hw.mmio'; start at 0 to {end}"):
            machine.read("hw.mmio", offset=end + 1, size=size)


def test_digest(machine: MachineClient) -> None:
    digest = machine.digest(["token_embd.weight"])
    assert digest.sha256 == {"token_embd.weight": hashlib.sha256(in_file("token_embd.weight")).hexdigest()}
    model = hashlib.sha256()
    for tensor in sorted(machine.tensors(), key=lambda tensor: tensor.name):
        if not tensor.protected:
            model.update(tensor.name.encode() + b"\0" + hashlib.sha256(in_file(tensor.name)).digest())
    assert machine.digest([]).sha256 == {}
    everything = machine.digest()
    assert everything.model == digest.model
    # hw.mmio and the journal live, the weights are those of the file.
    assert everything.sha256["token_embd.weight"] == digest.sha256["token_embd.weight"]
    assert model.hexdigest() == digest.model


def test_interrupt(machine: MachineClient) -> None:
    before = machine.stats().interrupts
    taken = machine.interrupt()
    assert (taken.acknowledged, taken.vector) == (True, 255)
    assert machine.interrupt(7).vector == 7
    assert machine.stats().interrupts == before + 2
    with pytest.raises(RequestRefusedError, match="0 to 255"):
        machine.interrupt(256)


def test_events_as_they_come(machine: MachineClient) -> None:
    machine.subscribe(["heartbeat"])
    events = list(itertools.islice(machine.events(timeout=60), 5))
    beats = [event.beats for event in events if isinstance(event, HeartbeatEvent)]
    assert beats == list(range(beats[0], beats[0] + 5))
    machine.subscribe([])
    list(machine.events(timeout=0.1))  # those that came before the reply
    assert list(machine.events(timeout=0.1)) == []
    seen: list[Event] = []
    machine.subscribe(["heartbeat", "mutation", "alert"], on_event=seen.append)
    until = time.monotonic() + 60
    while not seen:
        assert list(machine.events(timeout=0.1)) == []
        assert time.monotonic() < until, "no event reached the callback"
    with pytest.raises(RequestRefusedError, match="no event"):
        machine.subscribe(["weather"])


def test_any_request(machine: MachineClient) -> None:
    reply = machine.request("read", {"tensor": "hw.mmio", "bytes": 4})
    assert (reply.result["bytes"], reply.blob) == (4, bytes.fromhex("544f4256"))
    with pytest.raises(RequestRefusedError) as caught:
        machine.request("no such method")
    assert caught.value.code == -32601
    with pytest.raises(RequestRefusedError) as caught:
        machine.request("stats", {"unknown": 1})
    assert caught.value.code == -32602
    with pytest.raises(RequestRefusedError):
        machine.request("stats", blob=b"not allowed here")
    assert machine.stats().state == "beating"


def test_as_many_clients_as_the_protocol_allows(local: LocalMachine) -> None:
    with ExitStack() as clients:
        for _ in range(CONNECTIONS_LIMIT):
            assert clients.enter_context(connect(local.socket)).hello().protocol == 1
        with pytest.raises(RequestRefusedError) as caught:
            connect(local.socket, timeout=2)
        assert caught.value.code == 1017
    for _ in range(5):  # at once after others have left, which may not have been noticed
        with connect(local.socket) as machine:
            assert machine.greeted.protocol == 1


def test_faults_are_served_where_they_are_allowed(machine: MachineClient, tmp_path: Path) -> None:
    assert machine.allows_faults()
    with local_machine(tmp_path) as other, connect(other.socket) as strict:
        assert not strict.allows_faults()
        with pytest.raises(RequestRefusedError, match="switched off"):
            strict.fault("segv")


@pytest.mark.parametrize("fault", ["segv", "abort"])
def test_the_client_continues_after_a_crash_of_the_worker(tmp_path: Path, fault: str) -> None:
    with local_machine(tmp_path, "--fault", "--heartbeat-ms", "20") as local, connect(local.socket) as machine:
        machine.subscribe(["heartbeat"])
        first = next(machine.events(timeout=60))
        machine.fault(fault)
        assert machine.stats().worker.restarts == 1
        machine.fault(fault)
        with connect(local.socket) as other:
            # Sent before the worker has died, it would be in doubt.
            while other.stats().worker.restarts < 2:
                pass
        assert machine.interrupt().acknowledged
        last = list(itertools.islice(machine.events(timeout=60), 8))[-1]
        assert isinstance(first, HeartbeatEvent)
        assert isinstance(last, HeartbeatEvent)
        assert last.beats > first.beats
        assert machine.stats().worker.restarts == 2
        assert machine.is_alive()


def test_shutdown(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local, connect(local.socket) as machine:
        assert not machine.wait_until_gone(timeout=0.1)
        machine.shutdown()
        assert machine.wait_until_gone(timeout=120)
        assert local.process.wait(120)
        assert local.process.status == 0


def test_a_machine_that_is_killed(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local, connect(local.socket) as machine:
        local.process.kill()
        assert machine.wait_until_gone(timeout=120)
        with pytest.raises(LinkLostError, match="no machine listens"):
            machine.stats()


def test_connecting_without_a_listener_fails(tmp_path: Path) -> None:
    with pytest.raises(LinkLostError, match="no machine listens"):
        connect(tmp_path / "nothing")


def test_connections_are_closed(local: LocalMachine) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        connect(local.socket).close()
    with ExitStack() as clients:
        for _ in range(CONNECTIONS_LIMIT):
            clients.enter_context(connect(local.socket))
        with pytest.raises(RequestRefusedError):
            connect(local.socket, timeout=2)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
