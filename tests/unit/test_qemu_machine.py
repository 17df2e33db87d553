from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu.accel import Accel
from qemu.firmware import quick_rom
from qemu.launch import attach, start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.support import fake_qemu
from tests.unit.test_qemu_process import gone
from vboot.errors import BootError, InputError, ToolError
from vboot.port_files import port_sockets

KVM = Accel("kvm", "the fake runs at full speed")
SPEC = MachineSpec(kernel=Path("/vmlinuz"))


def begin(tmp_path: Path, scenario: str, **options: Any) -> VirtualMachine:
    return start(SPEC, accel=KVM, run=tmp_path / "run", qemu=fake_qemu.install(tmp_path, scenario), **options)


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path: Path) -> Iterator[None]:
    yield
    for name in tmp_path.glob("pid"):
        pid = int(name.read_text())
        left = not gone(pid)
        if left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def verdict(tmp_path: Path) -> dict[str, Any]:
    record = json.loads((tmp_path / "run" / "verdict.json").read_bytes())
    assert isinstance(record, dict)
    return record


def recorded_pid(tmp_path: Path) -> int:
    return int(json.loads((tmp_path / "run" / "machine.json").read_bytes())["pid"])


def test_a_machine_boots_answers_and_powers_off(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        match = machine.wait_for_console(r"phase=heartbeat t_us=(\d+)\r", timeout=120)
        assert match.groups == ("5000",)
        assert machine.console.read_bytes()[: match.end].endswith(b"t_us=5000\r")
        assert machine.phase == "ready"
        assert machine.qmp("query-status") == {"status": "running"}
        assert machine.qmp("any", timeout=120, **{"two-words": 1}) == {"two-words": 1}
        machine.powerdown()
        assert machine.wait_exit(timeout=120) == 0
    assert gone(machine.pid)
    record = verdict(tmp_path)
    assert (record["outcome"], record["phase"], record["exit_status"]) == ("ended", "bye", 0)
    assert (record["qemu_version"], record["accel"]["name"]) == ("9.8.7", "kvm")
    assert record["phases_us"]["heartbeat"] == 5000
    assert "SHUTDOWN" in [event["event"] for event in record["events"]]
    assert record["timeouts_s"]["console"] == 120
    assert len(record["loadavg"]) == 3


def test_the_run_folder_describes_sockets_and_command(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        description = machine.describe()
        assert list(description) == ["run", "pid", "evolution", "qmp", "console", "accel", "command"]
        assert Path(str(description["evolution"])).is_socket()
        assert Path(str(description["qmp"])).is_socket()
        assert json.loads((machine.run / "machine.json").read_bytes()).items() >= description.items()
        again = shlex.split((machine.run / "command.txt").read_text())
        assert Path(f"/proc/{machine.pid}/cmdline").read_text().split("\0")[:-1][-len(again) + 1 :] == again[1:]
    assert not (tmp_path / "run" / "qmp.sock").exists()


def test_a_kernel_is_started_by_the_small_rom_where_qemu_has_one_and_a_disk_by_its_firmware(tmp_path: Path) -> None:
    rom = quick_rom()
    with begin(tmp_path, "good") as machine:
        argv = shlex.split((machine.run / "command.txt").read_text())
    assert argv[argv.index("-bios") + 1] == str(rom) if rom else "-bios" not in argv
    given = MachineSpec(firmware=Path("/fw/OVMF.fd"))
    with start(given, accel=KVM, run=tmp_path / "disk", qemu=fake_qemu.install(tmp_path, "good")) as machine:
        argv = shlex.split((machine.run / "command.txt").read_text())
    assert argv[argv.index("-bios") + 1] == "/fw/OVMF.fd"


def test_waiting_from_a_place_in_the_console_finds_only_what_follows(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        first = machine.wait_for_console(r"phase=(\w+)", timeout=120)
        second = machine.wait_for_console(r"phase=(\w+)", start=first.end, timeout=120)
        assert (first.groups, second.groups) == (("start",), ("mounts",))


def test_an_error_of_qemu_at_start_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=r"status 1 \(qemu: could not open the disk\) in phase spawn") as caught:
        begin(tmp_path, "refuse")
    assert caught.value.phase == "spawn"
    assert caught.value.artefacts == tmp_path / "run"
    assert str(caught.value).endswith(str(tmp_path / "run"))
    assert verdict(tmp_path)["outcome"] == "died"


def test_no_qemu_at_all_is_a_tool_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="install QEMU"):
        start(SPEC, accel=KVM, run=tmp_path / "run", qemu="qemu-that-is-not-there")
    assert (tmp_path / "run" / "command.txt").exists()


def test_qemu_that_never_answers_is_ended_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="did not open its QMP socket") as caught:
        begin(tmp_path, "mute", timeout=0.1)
    assert caught.value.phase == "spawn"
    assert verdict(tmp_path)["outcome"] == "timeout"
    assert gone(recorded_pid(tmp_path))


def test_qmp_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=r"does not answer within 0\.5 s"):
        begin(tmp_path, "silent-qmp", timeout=0.5)
    assert gone(recorded_pid(tmp_path))


@pytest.mark.parametrize("scenario", ["die", "die-at-once"])
def test_a_machine_that_dies_early_names_its_phase_and_shows_its_console(tmp_path: Path, scenario: str) -> None:
    with pytest.raises(BootError, match="status 3") as caught, begin(tmp_path, scenario) as machine:
        machine.wait_for_console("never", timeout=120)
    assert caught.value.phase == "kernel"
    assert "Run /init as init process" in caught.value.__notes__[0]
    assert "Run /init" in verdict(tmp_path)["console_tail"]


def test_what_a_dying_machine_printed_last_still_counts(tmp_path: Path) -> None:
    with begin(tmp_path, "die") as machine:
        assert machine.wait_for_console("Run /init as", timeout=120)


def test_a_machine_that_hangs_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with begin(tmp_path, "hang") as machine:
        machine.wait_for_console("Run /init", timeout=120)
        with pytest.raises(BootError, match=r"'never' was not on the console within 0\.2 s") as caught:
            machine.wait_for_console("never", timeout=0.2)
    assert caught.value.phase == "kernel"
    assert gone(machine.pid)
    assert verdict(tmp_path)["outcome"] == "timeout"


def test_a_console_flood_ends_at_the_deadline_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu.machine._FLOOD", 1 << 40)
    with pytest.raises(BootError, match="not on the console"), begin(tmp_path, "flood") as machine:
        machine.wait_for_console("never", timeout=0.1)
    assert gone(machine.pid)


@pytest.mark.parametrize("wait", [lambda machine: machine.wait_for_console("never"), VirtualMachine.wait_exit])
def test_a_console_flood_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Callable[[VirtualMachine], object]
) -> None:
    monkeypatch.setattr("qemu.machine._FLOOD", 1 << 20)
    with pytest.raises(BootError, match=r"floods its console \(over 1 MiB\)"), begin(tmp_path, "flood") as machine:
        wait(machine)


@pytest.mark.parametrize("scenario", ["panic", "panic-exit"])
def test_a_panic_ends_every_wait_at_once(tmp_path: Path, scenario: str) -> None:
    start_time = time.monotonic()
    with pytest.raises(BootError, match="Attempted to kill init") as caught, begin(tmp_path, scenario) as machine:
        machine.wait_for_console("never", timeout=3600)
    assert time.monotonic() - start_time < 1800, "the deadline is not waited for"
    assert caught.value.phase == "kernel"
    assert "the rest of the trace" in caught.value.__notes__[0]
    assert verdict(tmp_path)["outcome"] == "panic"


def test_a_panic_is_not_a_power_off(tmp_path: Path) -> None:
    with begin(tmp_path, "panic-exit") as machine:
        assert gone(machine.pid)
        with pytest.raises(BootError, match="Kernel panic"):
            machine.wait_exit(timeout=120)


def test_a_machine_that_does_not_power_off_is_reported(tmp_path: Path) -> None:
    with begin(tmp_path, "hang") as machine:
        machine.powerdown()
        with pytest.raises(BootError, match="did not power off") as caught:
            machine.wait_exit(timeout=0.1)
    assert caught.value.phase == "bye"
    assert verdict(tmp_path)["outcome"] == "timeout"


def test_a_qmp_command_that_fails_says_so_and_the_machine_goes_on(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        with pytest.raises(BootError, match="QEMU refused fail"):
            machine.qmp("fail")
        with pytest.raises(BootError, match=r"did not answer silence within 0.1 s"):
            machine.qmp("silence", timeout=0.1)
        assert machine.qmp("query-status") == {"status": "running"}
    assert verdict(tmp_path)["outcome"] == "stopped"


def test_qemu_that_crashes_during_a_command_is_dead_not_silent(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="signal 11"), begin(tmp_path, "good") as machine:
        machine.qmp("crash")
    assert verdict(tmp_path)["exit_status"] == -11


def test_stop_goes_from_quit_to_sigkill(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        assert machine.stop() == 0
        assert machine.stop() == 0
    with begin(tmp_path, "no-quit") as machine:
        assert machine.stop(grace=0.2) == -signal.SIGTERM
    with begin(tmp_path, "deaf") as machine:
        assert machine.stop(grace=0.05) == -signal.SIGKILL
    assert gone(machine.pid)


def test_kill_is_a_power_cut(tmp_path: Path) -> None:
    with begin(tmp_path, "good") as machine:
        machine.kill()
        assert gone(machine.pid, seconds=0.1)
    assert verdict(tmp_path)["exit_status"] == -signal.SIGKILL


def test_an_error_of_the_user_ends_the_machine_and_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), begin(tmp_path, "good") as machine:
        raise ZeroDivisionError("mine")
    assert gone(machine.pid)
    assert (verdict(tmp_path)["outcome"], verdict(tmp_path)["why"]) == ("failed", "mine")


def test_a_detached_machine_runs_on_and_is_found_again(tmp_path: Path) -> None:
    with begin(tmp_path, "good", detach=True) as machine:
        pid = machine.pid
    assert verdict(tmp_path)["outcome"] == "detached"
    with pytest.raises(InputError, match="a machine runs in"):
        begin(tmp_path, "good")
    with pytest.raises(ZeroDivisionError), attach(tmp_path / "run"):
        raise ZeroDivisionError
    os.kill(pid, 0)
    with attach(tmp_path / "run") as again:
        assert again.describe() == machine.describe()
        assert again.qmp("query-status") == {"status": "running"}
        again.stop()
    assert gone(pid)
    assert verdict(tmp_path)["outcome"] == "stopped"
    with pytest.raises(BootError, match="has ended"):
        attach(tmp_path / "run")
    begin(tmp_path, "good").stop()


def test_a_detached_machine_that_fails_before_it_is_let_go_is_ended(tmp_path: Path) -> None:
    with pytest.raises(BootError), begin(tmp_path, "hang", detach=True) as machine:
        machine.wait_for_console("never", timeout=0.05)
    assert gone(machine.pid)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}'])
def test_a_damaged_machine_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        attach(tmp_path)


def test_a_long_run_folder_works_like_any_other(tmp_path: Path) -> None:
    run = tmp_path / ("x" * 100)
    qemu = fake_qemu.install(tmp_path, "good")
    with start(SPEC, accel=KVM, run=run, qemu=qemu) as machine:
        sockets = machine.evolution.parent
        assert machine.evolution.is_socket()
        assert (run / "sockets").readlink() == sockets
    assert not sockets.exists()


@pytest.mark.parametrize(("number", "outcome"), [(signal.SIGINT, "interrupted"), (signal.SIGKILL, None)])
def test_a_tool_that_is_interrupted_or_killed_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals, outcome: str | None
) -> None:
    program = f"""
import sys
from tests.unit.test_qemu_machine import *
with begin(Path({str(tmp_path)!r}), "hang") as machine:
    print(machine.pid, flush=True)
    machine.wait_for_console("never", timeout=60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tool:
        assert tool.stdout is not None
        pid = int(tool.stdout.readline())
        tool.send_signal(number)
    assert gone(pid)
    if outcome:
        assert verdict(tmp_path)["outcome"] == outcome


def test_deadlines_of_an_emulated_machine_are_longer(tmp_path: Path) -> None:
    slow = Accel("tcg", "emulated")
    qemu = fake_qemu.install(tmp_path, "good")
    with start(SPEC, accel=slow, run=tmp_path / "run", qemu=qemu) as machine:
        machine.wait_for_console("heartbeat")
    assert verdict(tmp_path)["timeouts_s"] == {"spawn": 30.0, "console": 120.0, "quit": 12.0, "kill": 30.0}


def test_ports_that_the_guest_does_not_serve_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(tmp_path, "good") as machine:
        sockets = port_sockets(machine.evolution)
        for path in sockets[1:]:
            path.touch()
        devices = [{"label": f"evolution{number}", "frontend-open": number == 3} for number in range(1, 16)]
        told = [{"label": "evolution", "frontend-open": False}, {"label": "qmp", "frontend-open": True}, *devices]
        monkeypatch.setattr(machine, "qmp", lambda _name: told)
        machine.keep_served_ports()
        assert [number for number, path in enumerate(sockets) if path.exists()] == [0, 3]
        monkeypatch.undo()
        machine.keep_served_ports()  # a monitor that does not know them
