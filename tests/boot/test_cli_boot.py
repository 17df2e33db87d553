"""`vboot boot`, `shell` and `stop` on real machines, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pexpect
import pytest

from qemu.launch import attach
from qemu.state_file import default_mib
from tests.boot.conftest import Image
from tests.support.file_names import ODDEST_NAME
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import connect
from vboot.errors import BootError
from vboot.protocol.messages import HeartbeatEvent, MutationEvent
from vboot.text import parse_path

VBOOT = [sys.executable, "-m", "builder"]
BOOT_S = 120.0
BIAS = ("--set", "blk.0.ffn_up.bias[0]=0.5")


def vboot(*words: str | Path, script: str = "") -> subprocess.CompletedProcess[str]:
    command = [*VBOOT, *map(str, words)]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=BOOT_S, check=False)


@contextmanager
def detached(image: Path, run: Path, *words: str) -> Iterator[dict[str, Any]]:
    """A machine that `vboot boot --detach` has left running; its description. It is killed in the end."""
    try:  # which begins before the boot: it may be interrupted when QEMU already runs
        booted = vboot("boot", "--image", image, "--run", run, "--detach", "--json", *words)
        yield json.loads(booted.stdout)
    finally:
        if is_running(run):
            with attach(run) as machine:
                machine.kill()


def is_running(run: Path) -> bool:
    try:
        attach(run).release()
    except BootError:
        return False
    return True


def verdict(run: Path) -> str:
    return str(json.loads((run / "verdict.json").read_text())["outcome"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_detached_boot_connect_and_stop(tiny: Image, run: Path) -> None:
    with detached(tiny.folder, run, "--fault", "1") as described:
        assert list(described) == ["run", "pid", "evolution", "qmp", "console", "accel", "command"]
        assert described["run"] == str(run)
        assert "Entering Heartbeat Loop" in Path(described["console"]).read_text(errors="replace")

        with connect(Path(described["evolution"])) as machine:
            machine.subscribe(["heartbeat"])
            first = next(machine.events(timeout=120))
            ring = machine.read("cortex_journal")
            assert len(ring.data) == 1 << 20
            # On a virtio-serial port the connection outlives the worker, so a new greeting comes within it.
            for restarts, fault in enumerate(("segv", "abort", "hang"), start=1):
                machine.fault(fault)
                assert machine.stats().worker.restarts == restarts
            # The heart beats on: the events are queued, in order, from the first on.
            assert isinstance(first, HeartbeatEvent)
            beats = (event.beats for event in machine.events(timeout=120) if isinstance(event, HeartbeatEvent))
            assert any(beat > first.beats + 50 for beat in beats)
            # The ring outlives the workers, and records their restarts.
            later = machine.read("cortex_journal")
            assert later.data[64:128] == ring.data[64:128]
            assert later.data[64 * 5 :] == ring.data[64 * 5 :]
            assert [record.kind for record in machine.history()] == ["boot", *["worker_restart"] * 3]

        script = vboot("shell", run, script="hello\nfault segv\nstats --json\n")
        assert (script.returncode, script.stderr) == (0, "")
        assert json.loads(script.stdout.splitlines()[-1])["worker"]["restarts"] == 4

        stopped = vboot("stop", run)
        assert stopped.stdout == f"the machine of {run} has ended: shut down in order\n"
        assert verdict(run) == "ended"
        again = vboot("stop", run)
        assert (again.returncode, again.stdout) == (
            0,
            f"the machine of {run} had already ended: QEMU ended by itself\n",
        )
        dead = vboot("shell", run, script="hello\n")
        assert (dead.returncode, dead.stdout) == (1, "")
        assert dead.stderr == f"vboot: error: the machine of {run} has ended: QEMU ended by itself; see {run}\n"


def test_odd_names_and_a_plain_processor(tiny: Image, tmp_path: Path) -> None:
    """Image, state disk and run folder with names that QEMU and JSON escape, on a processor without AVX or FMA."""
    odd = tmp_path / ODDEST_NAME
    shutil.copytree(tiny.folder, odd, copy_function=os.link)
    run, state = tmp_path / f"r{ODDEST_NAME}", tmp_path / f"s{ODDEST_NAME}"
    texts = ("A cat sleeps.", "A kitten naps on the mat.")
    with RustNeuralBridge() as bridge:
        bridge.initialize(tiny.folder / "vectorland.gguf")
        expected = bridge.client().embed(texts).vectors
    with detached(odd, run, "--cpu", "qemu64", "--state", str(state)) as described:
        assert parse_path(described["state"]) == state
        assert state.stat().st_size == default_mib((tiny.folder / "vectorland.gguf").stat().st_size) << 20
        second = vboot("boot", "--image", odd, "--detach", "--state", state)
        assert second.returncode == 1
        assert "is used by another machine that runs" in second.stderr
        assert json.loads(vboot("status", run, "--json").stdout)["state_file"] == described["state"]
        assert parse_path(described["run"]) == run
        assert "-cpu qemu64 " in described["command"]
        for path in (run, parse_path(described["evolution"]), parse_path(described["qmp"])):
            assert path.stat().st_mode & 0o077 == 0
        with connect(parse_path(described["evolution"])) as machine:
            assert not set(machine.stats().cpu_features) & {"avx", "avx2", "fma", "f16c"}
            assert machine.embed(texts).vectors.tobytes() == expected.tobytes()
        script = vboot("shell", described["run"], script="hello --json\n")
        assert json.loads(script.stdout)["generation"] == 0
        assert json.loads(vboot("history", run, "--json").stdout)["records"]
        stopped = json.loads(vboot("stop", described["run"], "--json").stdout)
        assert stopped == {"run": described["run"], "how": "shut down in order"}
    assert not is_running(run)


def test_sixteen_clients_at_once_and_the_next_is_told_who_they_are(tiny: Image, run: Path) -> None:
    with detached(tiny.folder, run) as described, ExitStack() as stack:
        path = Path(described["evolution"])
        shell = stack.enter_context(subprocess.Popen([*VBOOT, "shell", run], stdin=subprocess.PIPE, stdout=-1))
        assert shell.stdin is not None
        follower = stack.enter_context(connect(run, client="follower"))
        follower.subscribe(["mutation"])
        for number in range(3):
            assert vboot("embed", "--run", run, f"text {number}").returncode == 0
        assert vboot("mutate", run, *BIAS, "--confidence", "0.9").returncode == 0
        told = next(follower.events(timeout=BOOT_S))
        assert isinstance(told, MutationEvent)
        machines = json.loads(vboot("ps", "--json").stdout)["machines"]
        (own,) = [machine for machine in machines if machine["run"] == str(run)]
        assert own["generation"] == told.generation
        assert f"follower, pid {os.getpid()}" in own["clients"]
        assert f"vboot shell, pid {shell.pid}" in own["clients"]
        status = json.loads(vboot("status", run, "--json").stdout)
        assert (status["state"], status["generation"], status["worker_restarts"]) == ("running", told.generation, 0)
        others = [stack.enter_context(connect(path)) for _ in range(14)]
        assert {other.stats().generation for other in others} == {told.generation}
        refused = vboot("embed", "--run", run, "one too many")
        assert refused.returncode == 1
        assert "all 16 of its connections are taken, in use by " in refused.stderr
        assert f"vboot shell, pid {shell.pid}" in refused.stderr
        assert refused.stderr.count(f"vboot.client, pid {os.getpid()}") == 1
        stopped = vboot("stop", run)
        assert "has ended: by its power button (the machine is busy: " in stopped.stdout
        assert follower.wait_until_gone(timeout=120)
        shell.kill()
    assert "the power button was pressed" in (run / "console.log").read_text(errors="replace")


def test_at_a_terminal(tiny: Image, run: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(tmp_path), "INPUTRC": "/dev/null"}
    words = [*VBOOT[1:], "boot", "--image", str(tiny.folder), "--run", str(run), "--timeout", str(BOOT_S)]
    terminal: Any = pexpect.spawn(VBOOT[0], words, env=environment, encoding="utf-8", timeout=BOOT_S)
    try:
        for text in ("boot: accelerator", "boot: memory", "boot: kernel", "boot: done", "vboot> "):
            terminal.expect_exact(text)
        terminal.send("stats\n")
        terminal.expect(r"heartbeats +\d+, one every 100 ms")
        terminal.expect_exact("vboot> ")
        terminal.send("nonsense\n")  # a person who has seen the error gets no exit code for it
        terminal.expect_exact("there is no command nonsense")
        terminal.expect_exact("vboot> ")
        terminal.sendintr()
        terminal.expect_exact("vboot> ")
        terminal.send("exit\n")
        terminal.expect_exact("the machine has ended: shut down in order")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0
        assert verdict(run) == "ended"
    finally:
        terminal.close(force=True)


def test_a_script_on_stdin_then_its_own_shutdown(tiny: Image, run: Path) -> None:
    done = vboot("boot", "--image", tiny.folder, "--run", run, script="interrupt 9\nnonsense\nshutdown\n")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("vector 9 taken after ")
    assert lines[1:] == [
        "the machine powers off",
        f"the machine has ended: shut down in order; what it left is in {run}",
    ]
    assert "error: there is no command nonsense" in done.stderr
    assert done.returncode == 1
    assert verdict(run) == "ended"


@contextmanager
def held(image: Path, run: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A running `vboot boot --json` and the description that it printed."""
    command = [*VBOOT, "boot", "--json", "--image", str(image), "--run", str(run)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def end_by(how: str, process: subprocess.Popen[str], described: dict[str, Any]) -> None:
    if how == "stdin":
        stdin: IO[str] | None = process.stdin
        assert stdin is not None
        stdin.close()
    elif how == "sigint":
        process.send_signal(signal.SIGINT)
    else:
        with connect(Path(described["evolution"])) as machine:
            machine.shutdown()


@pytest.mark.parametrize("how", ["stdin", "sigint", "itself"])
def test_json_mode_runs_until_the_script_ends_it(tiny: Image, run: Path, how: str) -> None:
    with held(tiny.folder, run) as (process, described):
        with attach(run) as machine:  # both sockets are the script's
            assert machine.qmp("query-status")["status"] == "running"
        with connect(Path(described["evolution"])) as client:
            assert client.stats().state == "beating"
        end_by(how, process, described)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert "vector_boot: powering off" in (run / "console.log").read_text(errors="replace")
        assert not is_running(run)


def test_emergency_mode_is_reported_as_an_error(tiny: Image, run: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    shutil.copytree(tiny.folder, image)
    with (image / "vector_boot.rts").open("r+b") as file:
        content = file.read()
        file.seek(int.from_bytes(content[24:32], "big") + 4)  # the GGUF's version
        file.write(b"\x09")
    why = "the machine is in emergency mode: the model is refused: R2: version"
    done = vboot("boot", "--image", image, "--run", run)
    assert done.returncode == 1
    assert why in done.stderr.splitlines()[-1]
    assert done.stderr.endswith(f"; see {run}\n")
    assert verdict(run) == "ended"

    with detached(image, run) as described:
        assert why in described["error"]["message"]
        script = vboot("shell", run, script="stats --json\ntensors\n")
        assert json.loads(script.stdout)["state"] == "emergency"
        assert "code 1016" in script.stderr
        assert "shut down in order" in vboot("stop", run).stdout


@pytest.mark.parametrize("onfail", ["poweroff", "hold"])
def test_a_machine_that_cannot_start_reports_its_reason(tiny: Image, run: Path, tmp_path: Path, onfail: str) -> None:
    image = tmp_path / "image"
    shutil.copytree(tiny.folder, image)
    os.truncate(image / "initramfs.cpio", (image / "initramfs.cpio").stat().st_size - 100_000)
    done = vboot("boot", "--image", image, "--unchecked", "--run", run, "--onfail", onfail, "--memory", "160")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "error: the machine failed: the initramfs is incomplete" in last
    assert "in phase init under " in last
    assert "it has 160 MiB of memory and needs " in last
    assert last.endswith(f"; see {run}")
    assert not is_running(run)
