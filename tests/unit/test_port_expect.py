from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu.accel import Accel
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.support import fake_qemu
from tests.support.evolution_port.expect import EvolutionPort, machine_port
from vboot.errors import BootError

KVM = Accel("kvm", "the fake runs at full speed")


def begin(tmp_path: Path, scenario: str) -> VirtualMachine:
    qemu = fake_qemu.install(tmp_path, scenario)
    return start(MachineSpec(kernel=Path("/vmlinuz")), accel=KVM, run=tmp_path / "run", qemu=qemu)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[VirtualMachine]:
    with begin(tmp_path, "good") as running:
        yield running


@pytest.fixture
def port(machine: VirtualMachine) -> Iterator[EvolutionPort]:
    with machine_port(machine) as connected:
        connected.greet(timeout=120)
        yield connected


def transcript(machine: VirtualMachine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (machine.run / "channel.jsonl").read_text().splitlines()]


def test_greeting_hello_and_requests(machine: VirtualMachine) -> None:
    with machine_port(machine) as port:
        assert port.greet(timeout=120)["protocol"] == 1
        seen = [machine.phase]
        assert port.resync(timeout=120)["generation"] == 0
        reply = port.request("echo", {"text": "grüß Gott"}, timeout=120)
        assert (reply.result, reply.error, reply.blob) == ({"text": "grüß Gott"}, None, None)
        assert port.events[-1]["params"] == {"kind": "heartbeat"}
        refused = port.request("refuse", timeout=120)
        assert refused.error == {"code": 1006, "message": "no confidence"}
        assert [*seen, machine.phase] == ["ready", "command"]


def test_a_blob_goes_there_and_back(port: EvolutionPort) -> None:
    blob = bytes(range(256)) * 1024 + b"\n"
    assert port.request("echo", {}, blob=blob, timeout=120).blob == blob


def test_replies_are_matched_by_id(port: EvolutionPort) -> None:
    idents = [port.send("echo", {"number": number}) for number in range(3)]
    assert port.reply(idents[2], timeout=120).result == {"number": 2}
    assert [port.reply(ident, timeout=120).result for ident in idents[:2]] == [{"number": 0}, {"number": 1}]
    assert [event["method"] for event in port.events] == ["event"] * 3


def test_the_transcript_holds_both_directions_with_times(machine: VirtualMachine) -> None:
    with machine_port(machine) as port:
        port.greet(timeout=120)
        port.request("echo", {"a": 1}, blob=b"\x00\xff", timeout=120)
        port.send("half-line")
        with pytest.raises(BootError):
            port.reply("nobody", timeout=0.1)
    records = transcript(machine)
    assert [(record["dir"], "base64" in record) for record in records] == [
        ("in", False),
        ("out", False),
        ("out", True),
        ("in", False),
        ("in", False),
        ("in", True),
        ("out", False),
        ("in", False),
    ]
    assert '"echo"' in records[1]["text"]
    assert records[-1]["text"] == '{"jsonrpc":'
    times = [record["t"] for record in records]
    assert times == sorted(times)


def test_a_greeting_that_was_missed_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.evolution_port.expect._RESYNC_SECONDS", 0.1)
    with begin(tmp_path, "late-greeting") as machine, machine_port(machine) as port:
        assert port.greet(timeout=120)["protocol"] == 1


@pytest.mark.parametrize("what", ["greet", "resync"])
def test_an_appliance_that_says_nothing_ends_the_wait(tmp_path: Path, what: str) -> None:
    with begin(tmp_path, "no-greeting") as machine, machine_port(machine) as port:
        machine.wait_for_console("heartbeat", timeout=120)
        with pytest.raises(BootError, match=r"within 0\.1 s") as caught:
            getattr(port, what)(timeout=0.1)
    assert caught.value.phase == "ready"
    assert str(caught.value).endswith(str(tmp_path / "run"))


def test_a_machine_stuck_in_its_kernel_is_not_said_to_be_ready(tmp_path: Path) -> None:
    with pytest.raises(BootError) as caught, begin(tmp_path, "panic") as machine, machine_port(machine) as port:
        port.resync(timeout=120)
    assert caught.value.phase == "kernel"
    assert "Attempted to kill init" in str(caught.value)


def test_resync_works_from_any_state(port: EvolutionPort) -> None:
    port.send("stale")
    assert port.resync(timeout=120)["protocol"] == 1
    assert port.request("echo", {"a": 1}, timeout=120).result == {"a": 1}


@pytest.mark.parametrize(
    ("method", "words", "timeout"),
    [
        ("close", "the evolution port was closed", 60),
        ("die", "QEMU ended with status 9", 60),
        ("garbage", "not a JSON object: b'this is no JSON", 60),
        ("bad-crc", "wrong CRC", 60),
        ("half-blob", "only part of a blob of 4 bytes", 3),
        ("impossible-blob", "blob that cannot be", 60),
        ("half-line", "no reply to request", 0.2),
        ("long-line", "more than 65536 bytes", 60),
        ("flood", "no reply to request", 0.2),
    ],
)
def test_every_fault_of_the_guest_ends_the_wait_with_its_reason(
    machine: VirtualMachine, port: EvolutionPort, method: str, words: str, timeout: float
) -> None:
    with pytest.raises(BootError, match=words) as caught:
        port.request(method, timeout=timeout)
    assert caught.value.phase == "command"
    assert caught.value.artefacts == machine.run


def test_a_guest_that_stops_reading_does_not_hold_the_sender(port: EvolutionPort) -> None:
    port.send("stop-reading")
    with pytest.raises(BootError, match=r"took only \d+ of 4194304 bytes"):
        port.send_raw(bytes(1 << 22), timeout=0.2)


def test_shutdown_says_bye_and_the_machine_ends(machine: VirtualMachine, port: EvolutionPort) -> None:
    port.shutdown(timeout=120)
    assert machine.wait_exit(timeout=120) == 0
    assert machine.phase == "bye"


def test_a_port_with_no_machine_behind_it(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="takes no connection"):
        EvolutionPort(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "port"))
        listener.listen(1)
        with EvolutionPort(tmp_path / "port") as port:
            peer = listener.accept()[0]
            # The end of a line that was too long is not a line.
            peer.sendall(b"x" * 65536 + b'{"vector_boot": {"protocol": 9}}\n{"vector_boot": {"protocol": 1}}\n')
            assert port.greet(timeout=120) == {"protocol": 1}
            peer.close()
            with pytest.raises(BootError, match="was closed"):
                port.greet(timeout=120)
