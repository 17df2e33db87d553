"""Faults of the worker do not end the machine; faults of the image end in one clear sentence."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.boot.conftest import Image, SharedMachine
from tests.boot.test_machine import error, result
from tests.support.evolution_port.expect import EvolutionPort, machine_port
from vboot.errors import BootError


@contextmanager
def running(spec: MachineSpec) -> Iterator[tuple[VirtualMachine, EvolutionPort]]:
    with start(spec) as machine, machine_port(machine) as port:
        port.greet()
        yield machine, port


def failed(spec: MachineSpec) -> str:
    """Boot a machine that cannot start, and return the line that says why."""
    with start(spec) as machine:
        machine.wait_exit()
        said = machine.console.read_text(errors="replace")
    assert "Kernel panic" not in said
    lines = [line for line in said.splitlines() if "vector_boot: FAILED: " in line]
    assert len(lines) == 1
    return lines[0]


def altered(image: Image, target: Path, edit: Any) -> Path:
    shutil.copy(image.rts, target)
    with target.open("r+b") as file:
        edit(file)
    return target


def wait_for_beats(port: EvolutionPort, count: int) -> None:
    """Wait until the machine has beaten so many times more."""
    first = result(port, "stats")["heartbeats"]
    while result(port, "stats")["heartbeats"] < first + count:
        time.sleep(0.05)


def no_beat_is_lost(machine: VirtualMachine, port: EvolutionPort) -> bool:
    """Whether the counts of beats made and skipped add up to the elapsed periods.

    After a stall of more than ten periods the machine skips beats and says on the console how many; after a shorter
    one it catches up. So the counts are compared again until it has, each time a beat later.
    """
    for _ in range(300):
        stats = result(port, "stats")
        period_us = stats["heartbeat_period_ms"] * 1000
        due = (stats["uptime_us"] - stats["phases"]["heartbeat"]) / period_us
        said = machine.console.read_text(errors="replace")
        skipped = sum(map(int, re.findall(r"the heartbeat stalled .* (\d+) beats? skipped", said)))
        if abs(due - stats["heartbeats"] - skipped) < 2.5:
            return True
        wait_for_beats(port, 1)
    return False


def test_the_worker_may_die_of_anything(tiny: Image) -> None:
    with running(tiny.spec(append="vector_boot.fault=1")) as (machine, port):
        model = result(port, "digest")["model"]
        for number, (what, sign) in enumerate(
            [("segv", "signal 11"), ("abort", "signal 6"), ("oom", "signal 9"), ("hang", "no progress")], start=1
        ):
            seen = machine.console.stat().st_size
            result(port, "fault", what=what)
            machine.wait_for_console(f"{sign}[^\n]*\n", start=seen)
            port.resync()
            worker = result(port, "stats")["worker"]
            assert worker["restarts"] == number
        assert result(port, "digest")["model"] == model
        # Without reaping, no process id would be left for a new worker after these.
        for _ in range(5):
            result(port, "fault", what="orphans", count=1000)
            wait_for_beats(port, 10)
        seen = machine.console.stat().st_size
        result(port, "fault", what="segv")
        machine.wait_for_console("signal 11[^\n]*\n", start=seen)
        port.resync()
        assert result(port, "stats")["worker"]["restarts"] == 5
        assert no_beat_is_lost(machine, port)
        # The ACPI power button ends it in order.
        machine.powerdown()
        machine.wait_exit()
        said = machine.console.read_text(errors="replace")
        assert "the power button was pressed" in said
        assert said.rstrip().endswith("Power down") or "vector_boot: powering off" in said


def test_a_machine_killed_from_outside_is_named_and_replaced(tiny: Image) -> None:
    with SharedMachine(tiny.spec()) as shared:
        killed = shared.machine().pid
        assert result(shared.port(), "stats")["state"] == "beating"
        shared.explain_failure()  # of a test that failed for a reason of its own
        assert shared.machine().pid == killed
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(BootError, match="QEMU ended by signal 9"):
            shared.explain_failure()
        assert shared.machine().pid != killed
        assert result(shared.port(), "stats")["state"] == "beating"


def test_it_boots_without_a_console(tiny: Image) -> None:
    spec = tiny.spec()
    silent = MachineSpec(**{**vars(spec), "append": "console=null panic=-1 vector_boot.heartbeat_ms=50"})
    with running(silent) as (machine, port):
        assert result(port, "stats")["heartbeat_period_ms"] == 50
        port.shutdown()
        machine.wait_exit()


def test_a_missing_image_is_named(tiny: Image) -> None:
    assert "no disk has the serial number vb-rts" in failed(tiny.spec(disks=()))


def emergency(spec: MachineSpec, *, why: str) -> None:
    """The machine beats without a model and says why; only methods allowed in an emergency are answered."""
    with running(spec) as (machine, port):
        hello = result(port, "hello", protocol=1, client="test")
        assert why in hello["emergency"]
        assert error(port, "read", tensor="hw.mmio", bytes=4) == 1016
        assert error(port, "digest") == 1016
        assert result(port, "stats")["state"] == "emergency"
        wait_for_beats(port, 2)
        assert result(port, "subscribe", events=[]) == {"subscribed": []}
        port.shutdown()
        machine.wait_exit()
        assert why in machine.console.read_text(errors="replace")


def test_a_truncated_image_is_an_emergency(tiny: Image, tmp_path: Path) -> None:
    rts = altered(tiny, tmp_path / "cut.rts", lambda file: file.truncate(tiny.rts.stat().st_size - 4096))
    emergency(tiny.spec_with(rts), why="the image is refused: RTS: tensor_size")


def test_a_wrong_model_is_an_emergency(tiny: Image, tmp_path: Path) -> None:
    header = tiny.rts.read_bytes()[:512]
    tensors = int.from_bytes(header[24:32], "big")

    def break_version(file: Any) -> None:
        file.seek(tensors + 4)
        file.write(b"\x09")

    rts = altered(tiny, tmp_path / "model.rts", break_version)
    emergency(tiny.spec_with(rts), why="the model is refused: R2: version")


def test_another_executable_is_an_emergency(tiny: Image, tmp_path: Path) -> None:
    def exchange(file: Any) -> None:
        header = file.read(512)
        size = int.from_bytes(header[16:24], "big")
        binary = bytearray(file.read(size))
        binary[-1] ^= 1  # in the padding: it would even run
        file.seek(512)
        file.write(binary)
        file.seek(40)
        file.write(hashlib.sha256(binary).digest())

    rts = altered(tiny, tmp_path / "other.rts", exchange)
    emergency(tiny.spec_with(rts), why="is not the one in the RTS image")


@pytest.mark.parametrize("memory_mib", [48, 72])
def test_too_little_memory_is_reported_without_a_hang(tiny: Image, memory_mib: int) -> None:
    with pytest.raises(BootError, match=r"the guest died|QEMU ended"), running(tiny.spec(memory_mib=memory_mib)):
        pass
