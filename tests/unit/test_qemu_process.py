from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qemu.process import Process, boot_id, reopen, spawn, start_ticks
from vboot.errors import ToolError

PARENT = """
import sys, time
from pathlib import Path
from qemu.process import spawn
print(spawn(["sleep", "60"], log=Path(sys.argv[1]), detach=sys.argv[2] == "detach").pid, flush=True)
time.sleep(60)
"""


def sleeper(tmp_path: Path, seconds: str = "60") -> Process:
    return spawn(["sleep", seconds], log=tmp_path / "log")


def gone(pid: int, *, seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_output_goes_to_the_log_and_the_status_comes_back(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "cat; echo out; echo err >&2; exit 7"], log=tmp_path / "log")
    assert process.wait(120)
    assert process.status == 7
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert process.wait(0)


def test_waiting_ends_at_its_deadline_and_looks_when_given_none(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    start = time.monotonic()
    assert not process.wait(0)
    assert not process.wait(0.05)
    assert time.monotonic() - start >= 0.05
    assert process.status is None
    process.kill()


def test_kill_takes_everything_the_process_started(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "sleep 60 & echo $!; wait"], log=tmp_path / "log")
    while not (text := (tmp_path / "log").read_text()).endswith("\n"):
        assert not process.wait(0.01)
    assert process.kill()
    assert process.status == -signal.SIGKILL
    assert gone(int(text))


def test_what_an_ended_process_left_in_its_session_is_taken_too(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "sleep 60 & echo $!"], log=tmp_path / "log")
    assert process.wait(120)
    assert process.status == 0
    assert gone(int((tmp_path / "log").read_text()))


def test_a_signal_reaches_the_process_and_none_that_has_ended(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.signal(signal.SIGTERM)
    assert process.wait(120)
    assert process.status == -signal.SIGTERM
    process.signal(signal.SIGTERM)
    assert process.kill()


def test_a_program_that_is_not_there_or_not_a_program_is_a_tool_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="install QEMU"):
        spawn(["qemu-that-is-not-there"], log=tmp_path / "log")
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ToolError, match="could not be started"):
        spawn([str(tmp_path / "text")], log=tmp_path / "log")


@pytest.mark.parametrize("how", ["die", "detach"])
def test_only_a_detached_process_outlives_a_parent_killed_hard(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    if how == "die":
        assert gone(pid)
    else:
        assert not gone(pid, seconds=0.2)
        os.kill(pid, signal.SIGKILL)


def test_reopening_finds_that_very_process_and_no_other(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    boot = boot_id()
    started = start_ticks(process.pid)
    assert started is not None
    assert reopen(process.pid, started=started + 1, boot=boot) is None
    assert reopen(process.pid, started=started, boot="another boot of the host") is None
    again = reopen(process.pid, started=started, boot=boot)
    assert again is not None
    assert again.kill()
    assert again.status == -signal.SIGKILL
    assert process.wait(120)
    assert process.status is None
    assert reopen(process.pid, started=started, boot=boot) is None
    assert start_ticks(process.pid) is None


def test_a_process_that_ended_and_was_not_waited_for_is_gone(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    started = start_ticks(process.pid)
    assert started is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(process.pid) == started
    assert reopen(process.pid, started=started, boot=boot_id()) is None
    assert process.kill()


def test_forgetting_leaves_it_running(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.forget()
    os.kill(process.pid, 0)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
