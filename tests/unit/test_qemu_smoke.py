"""The real QEMU, with a guest of a few instructions instead of a kernel."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qemu.accel import Accel, probe
from qemu.launch import attach, start
from qemu.spec import Disk, MachineSpec
from tests.support.evolution_port.expect import machine_port
from tests.support.file_names import ODD_NAMES, ODDEST_NAME
from tests.support.serial_rom import serial_rom
from tests.unit.test_qemu_process import gone
from vboot.errors import BootError

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="there is no QEMU here")
TCG = Accel("tcg", "works everywhere")
TEXT = b"first byte\r\nvector_boot: phase=start t_us=0\r\n" + b"".join(b"line %d\r\n" % number for number in range(200))
# This guest ends before QMP has answered, so it starts paused.
PAUSED = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-S")
PARENT = """
import sys, time
from pathlib import Path
from qemu.launch import attach, start
from tests.unit.test_qemu_smoke import *
machine = start(MachineSpec(firmware=Path(sys.argv[1]), memory_mib=64), accel=TCG, run=Path(sys.argv[2]))
print(machine.pid, flush=True)
time.sleep(60)
"""


def rom(tmp_path: Path, exit_value: int | None) -> Path:
    path = tmp_path / "guest.rom"
    path.write_bytes(serial_rom(TEXT, exit_value=exit_value))
    return path


def test_console_from_byte_0_and_the_guests_own_exit(tmp_path: Path) -> None:
    spec = MachineSpec(firmware=rom(tmp_path, 0x15), memory_mib=64, extra=PAUSED)
    with start(spec, accel=TCG, run=tmp_path / "run") as machine:
        machine.qmp("cont")
        assert machine.wait_exit() == 0x15 << 1 | 1
    assert machine.console.read_bytes() == TEXT
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_bytes())
    assert (verdict["outcome"], verdict["phase"], verdict["phases_us"]) == ("ended", "init", {"start": 0})
    assert verdict["inputs"][0]["bytes"] == 0x10000


def test_a_halted_guest_with_disks_answers_qmp(tmp_path: Path) -> None:
    rts, state = tmp_path / "a,b.rts", tmp_path / "state.img"
    rts.write_bytes(bytes(4096))
    state.write_bytes(bytes(4096))
    disks = (Disk(rts, "vb-rts", True), Disk(state, "vb-state", False))
    spec = MachineSpec(firmware=rom(tmp_path, None), memory_mib=64, disks=disks, watchdog="poweroff")
    # A folder whose name must be quoted and whose path is too long for a socket.
    with start(spec, accel=TCG, run=tmp_path / ("run, " * 20)) as machine:
        machine.wait_for_console(r"line 199\r\n")
        assert machine.qmp("query-status")["status"] == "running"
        drives = {drive["inserted"]["file"]: drive["inserted"]["ro"] for drive in machine.qmp("query-block")}
        assert sorted(drives.values()) == [False, True]
        ports = machine.qmp("query-chardev")
        evolution = {"evolution", *(f"evolution{number}" for number in range(1, 16))}
        assert {port["label"] for port in ports} == {"console", "qmp", *evolution}
        with machine_port(machine) as port, pytest.raises(BootError, match="greet"):
            port.greet(timeout=0.1)
        assert machine.stop() == 0


def test_a_machine_is_for_its_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    spec = MachineSpec(firmware=rom(tmp_path, None), memory_mib=64)
    before = os.umask(0)
    try:
        with start(spec, accel=TCG, run=tmp_path / "run") as machine:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in machine.run.iterdir()}
            assert modes["evolution.sock"] == modes["qmp.sock"] == modes["console.log"] == 0o600
            assert stat.S_IMODE(machine.run.stat().st_mode) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", [*ODD_NAMES.values(), ODDEST_NAME], ids=[*ODD_NAMES, "everything"])
def test_qemu_takes_any_file_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    rts = folder / name
    rts.write_bytes(bytes(4096))
    spec = MachineSpec(firmware=rom(folder, None), memory_mib=64, disks=(Disk(rts, "vb-rts", True),))
    with start(spec, accel=TCG, run=folder / f"run{name[:150]}", detach=True) as machine:
        machine.wait_for_console(r"line 199\r\n")
        machine.release()
    with attach(machine.run) as again:
        assert again.qmp("query-status")["status"] == "running"
        assert again.stop() == 0


def test_qemu_dies_with_a_tool_that_is_killed_hard(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(rom(tmp_path, None)), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tool:
        assert tool.stdout is not None
        pid = int(tool.stdout.readline())
        tool.kill()
    assert gone(pid)


def test_a_missing_disk_is_reported_with_qemus_message(tmp_path: Path) -> None:
    spec = MachineSpec(firmware=rom(tmp_path, None), disks=(Disk(tmp_path / "none.rts", "vb-rts", True),))
    with pytest.raises(BootError, match=r"none\.rts.*No such file") as caught:
        start(spec, accel=TCG, run=tmp_path / "run")
    assert caught.value.phase == "spawn"


def test_the_probe_finds_an_accelerator_that_runs_a_guest(tmp_path: Path, image: Path) -> None:
    accel = probe(kernel=image / "vmlinuz", cache=tmp_path / "accel.json")
    spec = MachineSpec(firmware=rom(tmp_path, 0), memory_mib=64, extra=PAUSED)
    with start(spec, accel=accel, run=tmp_path / "run") as machine:
        machine.qmp("cont")
        assert machine.wait_exit() == 1
