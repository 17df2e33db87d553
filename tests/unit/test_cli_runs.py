"""ps, status, logs, stop and prune: the machines of a user and their run folders, from any folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu.accel import Accel
from qemu.launch import attach, start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.support import fake_qemu
from tests.support.vboot import Vboot
from tests.unit.test_qemu_process import gone
from vboot.client.ports import PortOpener
from vboot.errors import BootError

KVM = Accel("kvm", "the fake runs at full speed")
ROOT = Path(__file__).parents[2]
SPEC = MachineSpec(kernel=Path("/images/mine/vmlinuz"), memory_mib=512)


@pytest.fixture
def vboot(capfd: pytest.CaptureFixture[str]) -> Vboot:
    return Vboot(capfd)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A register of its own, and a working folder that holds no run folders."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("cli.ps._ANSWER_S", 0.2)  # the fake answers no hello
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    for file in tmp_path.glob("**/pid"):
        if not gone(pid := int(file.read_text())):
            os.kill(pid, signal.SIGKILL)


def detached(run: Path, scenario: str = "good") -> VirtualMachine:
    run.parent.mkdir(parents=True, exist_ok=True)
    folder = run.with_name(f"{run.name} program")
    folder.mkdir(exist_ok=True)
    with start(
        SPEC, accel=KVM, run=run, qemu=fake_qemu.install(folder, scenario), detach=True, model="tiny"
    ) as machine:
        if scenario == "good":
            machine.wait_for_console("phase=heartbeat", timeout=120)
    return machine


def ended(run: Path) -> Path:
    detached(run)
    with attach(run) as machine:
        machine.stop()
    return run


def kill(machine: VirtualMachine) -> None:
    with attach(machine.run) as again:
        again._process.kill()


def test_ps_lists_machines_of_any_folder_and_who_uses_them(tmp_path: Path, vboot: Vboot) -> None:
    assert vboot("ps") == 0
    assert vboot.out == "no machine of yours runs\n"
    first, second = detached(tmp_path / "a" / "first"), detached(tmp_path / "b" / "second")
    link = PortOpener(first.evolution, "vboot shell")(1e9)
    listed = vboot.json("ps")["machines"]
    assert [Path(machine["run"]).name for machine in listed] == ["second", "first"]
    assert [machine["pid"] for machine in listed] == [second.pid, first.pid]
    assert listed[1]["clients"] == [f"vboot shell, pid {os.getpid()}"]
    assert {machine["model"] for machine in listed} == {"tiny"}
    assert vboot("ps") == 0
    assert [line.split()[0] for line in vboot.out.splitlines()] == ["run", "second", "first"]
    link.close()
    kill(second)
    assert [Path(machine["run"]).name for machine in vboot.json("ps")["machines"]] == ["first"]
    assert vboot("stop") == 0, vboot.err


def test_a_register_with_rubbish_in_it_is_read_all_the_same(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    register = tmp_path / "runtime" / "vector_boot" / "runs"
    (register / "0.json").write_bytes(b"\xff[")
    (register / "1.json").write_text('{"run": 1}')
    (register / "2.json").write_text(next(path for path in register.iterdir() if len(path.name) > 6).read_text())
    assert len(vboot.json("ps")["machines"]) == 1
    assert vboot("stop", machine.run) == 0
    assert sorted(path.name for path in register.iterdir() if len(path.name) == 6) == []


def test_an_entry_that_cannot_be_looked_up_hides_no_other_and_stays(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    register = tmp_path / "runtime" / "vector_boot" / "runs"
    (sound,) = register.iterdir()
    bad = []
    for number in range(20):  # in whatever order the folder lists them
        run = f"/{number}{'x' * 300}"
        bad.append(register / (hashlib.sha256(run.encode()).hexdigest()[:32] + ".json"))
        bad[-1].write_text(json.dumps({**json.loads(sound.read_bytes()), "run": run, "pid": 2**22 - 1}))
        (register / f"{number}.json").mkdir()
    assert [Path(each["run"]).name for each in vboot.json("ps")["machines"]] == ["run"]
    assert all(file.exists() for file in bad)
    assert vboot("stop", "--all") == 0, vboot.err
    assert gone(machine.pid)


@pytest.mark.parametrize("there", ["here", "elsewhere"])
def test_a_machine_is_found_without_the_environment_it_was_booted_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vboot: Vboot, there: str
) -> None:
    # In build/run of this folder it is found in any case; elsewhere by the register of the state folder.
    run = tmp_path / "here" / "build" / "run" / "1" if there == "here" else tmp_path / "elsewhere"
    if there == "elsewhere":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    detached(run)
    if there == "here":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    assert [each["run"] for each in vboot.json("ps")["machines"]] == [str(run)]
    assert vboot("stop") == 0, vboot.err
    assert f"the machine of {run} has ended" in vboot.out


def test_a_machine_in_both_registers_and_in_build_run_is_one(tmp_path: Path, vboot: Vboot) -> None:
    detached(tmp_path / "here" / "build" / "run" / "1")
    shutil.copytree(tmp_path / "runtime" / "vector_boot", tmp_path / "state" / "vector_boot")
    assert len(vboot.json("ps")["machines"]) == 1
    assert vboot("stop") == 0, vboot.err


def test_stop_without_a_name_stops_the_one_that_runs_and_lists_more(tmp_path: Path, vboot: Vboot) -> None:
    assert vboot("stop") == 1
    assert "no machine of yours runs" in vboot.err
    detached(tmp_path / "first")
    second = detached(tmp_path / "second")
    assert vboot("stop") == 1
    assert f"2 machines run: {second.run}, {tmp_path}/first; name one of them, or give --all" in vboot.err
    assert vboot("stop", "second") == 0, "named by its folder alone"
    assert vboot("stop") == 0
    assert f"the machine of {tmp_path}/first has ended" in vboot.out


def test_stop_all(tmp_path: Path, vboot: Vboot) -> None:
    assert vboot("stop", "--all") == 0
    machines = [detached(tmp_path / name) for name in ("first", "second", "third")]
    for file in (*machines[2].run.iterdir(), machines[2].run):
        file.rmdir() if file.is_dir() else file.unlink()
    assert vboot("stop", "--all", "first") == 1
    assert vboot("stop", "--all") == 0, vboot.err
    assert vboot.out.count("has ended") == 3
    assert "its run folder was removed" in vboot.out
    assert all(gone(machine.pid) for machine in machines)


@pytest.mark.parametrize("fate", ["removed", "renamed", "damaged"])
@pytest.mark.parametrize("named", ["by name", "by path"])
def test_what_ps_lists_can_be_described_and_stopped(tmp_path: Path, vboot: Vboot, fate: str, named: str) -> None:
    machine = detached(tmp_path / "there" / "run")
    word = "run" if named == "by name" else "../there/run"
    if fate == "removed":
        shutil.rmtree(machine.run)
    elif fate == "renamed":
        machine.run.rename(tmp_path / "there" / "other")
    else:
        machine.folder.machine.write_text("{")
    assert [each["pid"] for each in vboot.json("ps")["machines"]] == [machine.pid]
    assert vboot("status", word) == 0, vboot.err
    why = "its machine.json is missing or damaged" if fate == "damaged" else "its run folder was removed or renamed"
    assert f"running, but {why}: end it with `vboot stop {machine.run}`" in vboot.out
    assert vboot("stop", word) == 0, vboot.err
    assert f"the machine of {machine.run} has ended: by ending QEMU ({why})" in vboot.out
    assert gone(machine.pid)
    assert vboot("stop", word) == 1


@pytest.mark.parametrize("many", [1, 16])
def test_clients_fit_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vboot: Vboot, many: int) -> None:
    names = tuple(f"vboot shell, pid {1000 + number}" for number in range(many))
    monkeypatch.setattr("cli.ps.clients", lambda _path: names)
    monkeypatch.setattr("cli.status.clients", lambda _path: names)
    detached(tmp_path / "run")
    assert vboot.json("ps")["machines"][0]["clients"] == list(names)
    assert vboot("ps") == 0
    assert vboot.out.splitlines()[1].endswith("vboot shell, pid 1000" if many == 1 else "  16 clients")
    assert vboot("status", "run", "--timeout", "0.1") == 0
    assert [line.strip() for line in vboot.out.splitlines()[-many:]] == [f"clients    {names[0]}", *names[1:]]
    assert len({line.index("vboot shell") for line in vboot.out.splitlines()[-many:]}) == 1
    assert vboot("stop") == 0, vboot.err


def test_stop_of_a_machine_whose_process_is_out_of_sight_does_not_call_it_ended(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    record: dict[str, Any] = json.loads(machine.folder.machine.read_bytes())
    pid, record["pid"] = record["pid"], 2**22 - 1  # as from a container, where that number means nothing
    machine.folder.write_json(machine.folder.machine, record)
    assert vboot("stop", machine.run) == 1
    assert "a machine runs in" in vboot.err
    assert "is not to be seen from here; use its socket" in vboot.err
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_killed_machine_is_told_as_such(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    kill(machine)
    assert vboot("embed", "--run", machine.run, "a") == 1
    assert "has ended: QEMU ended before the guest powered off: it was killed, or crashed" in vboot.err
    assert vboot("stop", machine.run) == 0
    assert "had already ended: QEMU ended before the guest powered off" in vboot.out
    assert vboot("embed", "--run", machine.evolution, "a") == 1
    assert "the machine of" in vboot.err
    assert "it was killed, or crashed" in vboot.err


def test_status_describes_a_machine_and_how_it_ended(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    told = vboot.json("status", "run", "--timeout", "0.5")
    assert told["state"] == "running"
    assert (told["pid"], told["memory_mib"], told["model"], told["accel"]) == (machine.pid, 512, "tiny", "kvm")
    assert (told["image"], told["clients"]) == ("/images/mine", [])
    with attach(machine.run) as again:
        again.stop()
    assert vboot("status", machine.run) == 0
    assert f"run      {machine.run}\n" in vboot.out
    assert "state    ended: QEMU ended" in vboot.out


def test_logs_prints_the_console_and_follows_it_to_the_end(tmp_path: Path, vboot: Vboot) -> None:
    machine = detached(tmp_path / "run")
    assert vboot("logs", "run") == 0
    lines = vboot.out.splitlines()
    assert "Linux version" in lines[0]
    assert lines[-1] == "vector_boot: phase=heartbeat t_us=5000"
    assert vboot.json("logs")["text"].splitlines() == lines
    with machine.console.open("ab") as console:
        console.write(b"\x1b[31mred\x1b[0m\r\nthe last line, without an end")
    kill(machine)
    assert vboot("logs", machine.run, "-f") == 0
    assert vboot.out.splitlines() == [*lines, "red", "the last line, without an end"]
    assert vboot("logs", machine.run, "-f", "--json") == 1


def test_prune_keeps_the_newest_and_everything_that_is_no_ended_run(tmp_path: Path, vboot: Vboot) -> None:
    base = tmp_path / "here" / "build" / "run"
    runs = [ended(base / name) for name in ("d", "c", "b", "a")]
    alive = detached(base / "z")
    (runs[1] / "note.txt").write_text("mine")
    (runs[2] / "booted.gguf").write_text("the model")
    for name in ("starting", "other"):
        (base / name).mkdir()
    (base / "starting" / "command.txt").write_text("qemu")
    (base / "other" / "machine.json").write_text('{"run": "elsewhere"}')
    (base / "link").symlink_to(runs[0])
    before = sorted(path.name for path in base.iterdir())
    assert vboot("prune", "--keep", "1", "--dry-run") == 0
    assert sorted(path.name for path in base.iterdir()) == before
    assert "3 of 4 run folders of machines that have ended would be removed" in vboot.out
    assert "left build/run/other: its machine.json is damaged; remove it by hand\n" in vboot.out
    assert vboot("prune") == 0, "few enough"
    assert sorted(path.name for path in base.iterdir()) == before
    told = vboot.json("prune", "--keep", "1")
    assert [Path(path).name for path in told["removed"]] == ["b", "d"]
    assert [Path(path).name for path in told["damaged"]] == ["other"]
    assert [Path(path).name for path in told["left"]] == ["c"]
    assert sorted({*before} - {path.name for path in base.iterdir()}) == ["b", "d"]
    assert {"note.txt", "machine.json", "console.log"} <= {path.name for path in runs[1].iterdir()}
    assert attach(alive.run).pid == alive.pid


def test_prune_removes_nothing_outside_the_run_folder(tmp_path: Path, vboot: Vboot) -> None:
    base = tmp_path / "here" / "build" / "run"
    linked, held = ended(base / "linked"), ended(base / "held")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "note.txt").write_text("mine")
    (linked / "sockets").symlink_to(victim)
    (held / "sockets").mkdir()
    (held / "sockets" / "note.txt").write_text("mine")
    told = vboot.json("prune", "--keep", "0")
    assert ([Path(path).name for path in told["removed"]], [Path(path).name for path in told["left"]]) == (
        ["linked"],
        ["held"],
    )
    assert (victim / "note.txt").read_text() == "mine"
    assert {"machine.json", "console.log"} <= {path.name for path in held.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGTRAP, None])
def test_too_little_memory_for_qemu_is_said_so(tmp_path: Path, number: signal.Signals | None) -> None:
    program = tmp_path / "qemu"
    said = (
        "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory"
        if number is None
        else "(process:7): GLib-ERROR **: gmem.c:130: failed to allocate 65536 bytes"
    )
    end = "exit 1" if number is None else f"kill -{int(number)} $$"
    program.write_text(f'#!/bin/sh\necho "{said}" >&2\n{end}\n')
    program.chmod(0o755)
    with pytest.raises(BootError, match=r"too little memory from the host, of which .* 512 MiB.*free memory.*--memory"):
        start(SPEC, accel=KVM, run=tmp_path / "run", qemu=str(program))


def test_a_hangup_ends_an_attached_machine_with_a_verdict_and_without_sockets(tmp_path: Path) -> None:
    fake_qemu.install(tmp_path, "no-greeting")
    (tmp_path / "fake-qemu").rename(tmp_path / "qemu-system-x86_64")
    program = (
        "import sys; from pathlib import Path; from cli import main, boot; from cli.answer import Answer\n"
        "from qemu.launch import start; from qemu.accel import Accel; from qemu.spec import MachineSpec\n"
        "def run(arguments):\n"
        "    with start(MachineSpec(kernel=Path('k')), accel=Accel('kvm', ''), run=Path('run')) as machine:\n"
        "        print('up', flush=True); machine.wait_for_console('never', timeout=600)\n"
        "boot.run = run; sys.exit(main(['boot']))"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    command, environment = [sys.executable, "-c", program], {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGHUP)
        assert child.wait(120) == 129
    assert json.loads(Path("run/verdict.json").read_bytes())["outcome"] == "interrupted"
    assert [path.name for path in Path("run").iterdir() if ".sock" in path.name] == []
    assert gone(int((tmp_path / "pid").read_text()))
