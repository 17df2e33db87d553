from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vboot.errors import ToolError
from vboot.programs import capture, ending, run_logged


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def logged(script: str, log: Path, *, lines: list[str] | None = None, timeout_s: float = 120.0) -> None:
    run_logged(
        shell(script),
        phase="compiling",
        timeout_s=timeout_s,
        log=log,
        folder=log.parent,
        environment=os.environ,
        on_line=lines.append if lines is not None else lambda _: None,
    )


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a killed one may stay a zombie until its new parent looks."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def sleepers(seconds: str) -> list[int]:
    """The processes that run `sleep` for this time."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes() == f"sleep\0{seconds}\0".encode() and is_alive(int(folder.name)):
                found.append(int(folder.name))
    return found


def a_long_time() -> str:
    """More than a minute in seconds, with decimals that no other process uses."""
    return f"100.{secrets.randbelow(10**12):012d}"


def all_end(seconds: str) -> bool:
    """Whether no process sleeps for this time any more; the kernel may need a moment to end it."""
    deadline = time.monotonic() + 60
    while sleepers(seconds) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not sleepers(seconds)


def test_output_and_status_are_returned() -> None:
    completed = capture(shell("echo out; echo err >&2; exit 3"), phase="asking", timeout_s=120)
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "err\n")


def test_standard_input_is_empty() -> None:
    assert capture(["cat"], phase="reading", timeout_s=120).stdout == ""


def test_output_that_is_not_text_is_no_error() -> None:
    assert capture(shell(r"printf '\377'"), phase="asking", timeout_s=120).stdout == "�"


def test_missing_program() -> None:
    with pytest.raises(ToolError, match=r"no-such-program cannot be run: No such file .*; install it"):
        capture(["no-such-program"], phase="asking", timeout_s=120, remedy="install it")


def test_slow_program_is_killed_with_its_children() -> None:
    seconds = a_long_time()
    with pytest.raises(ToolError, match=r"asking did not end within 0\.3 s"):
        capture(shell(f"sleep {seconds} & wait"), phase="asking", timeout_s=0.3)
    assert all_end(seconds)


def test_log_and_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    logged("echo one; sleep 0.25; echo two >&2; sleep 0.25", tmp_path / "log", lines=lines)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert lines == ["one", "two"]


def test_failure_shows_the_errors_of_the_log(tmp_path: Path) -> None:
    script = "seq 100; echo 'error[E1]: first'; echo '  where'; echo 'error: second'; exit 101"
    with pytest.raises(ToolError, match="compiling failed: sh ended with exit status 101") as error:
        logged(script, tmp_path / "log")
    assert error.value.stderr == "error[E1]: first\n  where\nerror: second"
    assert error.value.returncode == 101
    assert str(tmp_path / "log") in str(error.value)


def test_failure_without_the_word_shows_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as error:
        logged("seq 100; exit 1", tmp_path / "log")
    assert error.value.stderr.splitlines() == [str(number) for number in range(81, 101)]


def test_killed_program_is_named_by_its_signal(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="ended with signal SIGSEGV"):
        logged("kill -SEGV $$", tmp_path / "log")


def test_hanging_program_is_killed_with_its_children(tmp_path: Path) -> None:
    seconds = a_long_time()
    with pytest.raises(ToolError, match=r"compiling did not end within 0\.3 s"):
        logged(f"sleep {seconds} & wait", tmp_path / "log", timeout_s=0.3)
    assert all_end(seconds)


def test_grandchild_that_keeps_the_output_open_delays_nothing(tmp_path: Path) -> None:
    seconds = a_long_time()
    logged(f"sleep {seconds} &", tmp_path / "log")
    while not (found := sleepers(seconds)):
        pass
    os.kill(found[0], signal.SIGKILL)


def test_interrupt_kills_the_program(tmp_path: Path) -> None:
    seconds = a_long_time()

    def interrupt() -> None:
        while not sleepers(seconds):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        logged(f"sleep {seconds}; true", tmp_path / "log", timeout_s=90)
    interrupter.join()
    assert all_end(seconds)


def test_ending_in_words() -> None:
    assert ending(0) == "exit status 0"
    assert ending(-9) == "signal SIGKILL"
    assert ending(-200) == "signal 200"
