"""Runs external programs. Every run has a deadline, a name for errors, and leaves no child process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import ToolError

POLL_S = 0.1
ERROR_LINES = 20


@dataclass(frozen=True)
class Completed:
    """How a program ended: exit status (negative: the number of the signal that killed it) and output as text."""

    returncode: int
    stdout: str
    stderr: str


def capture(command: Sequence[str], *, phase: str, timeout_s: float, remedy: str | None = None) -> Completed:
    """Run a program to its end and return its exit status, whatever it is, and its output. `phase` names it in errors.

    Raises ToolError if it cannot be started or is still running after `timeout_s` seconds (then it is killed).
    """
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise _cannot_start(command, error, remedy) from error
    try:
        stdout, stderr = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        _kill_group(child)
        raise _too_slow(command, phase, timeout_s) from error
    except BaseException:
        _kill_group(child)
        raise
    return Completed(child.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def run_logged(
    command: Sequence[str],
    *,
    phase: str,
    timeout_s: float,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    remedy: str | None = None,
) -> None:
    """Run a long program in `folder` with all its output in the file `log`; `on_line` is called with each line.

    Raises ToolError, with the last lines of the log, if it cannot be started, fails, or is still running after
    `timeout_s` seconds (then it and its children are killed).
    """
    # The program itself writes to the file: nothing is lost if this process ends, and no pipe can fill up.
    with log.open("wb") as sink, log.open(encoding="utf-8", errors="replace") as lines:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=folder,
                env=dict(environment), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise _cannot_start(command, error, remedy) from error
        deadline = time.monotonic() + timeout_s
        try:
            while _still_runs(child):
                for line in lines:
                    on_line(line.rstrip("\n"))
                if time.monotonic() > deadline:
                    raise _too_slow(command, phase, timeout_s, tail=_last_lines(log))
        except BaseException:
            _kill_group(child)
            raise
    if child.returncode != 0:
        raise ToolError(
            f"{phase} failed: {command[0]} ended with {ending(child.returncode)}",
            command=list(command), returncode=child.returncode, stderr=_last_lines(log),
            remedy=remedy or f"the whole output is in {log}",
        )  # fmt: skip


def ending(returncode: int) -> str:
    """An exit status in words: "exit status 1" or "signal SIGSEGV"."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def _still_runs(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the program and all that it started: it leads a session of its own, so no other process is affected."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _last_lines(log: Path) -> str:
    """The end of a log: from the first line that begins with "error", else the last lines."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
    first = next((number for number, line in enumerate(lines) if line.startswith("error")), len(lines) - ERROR_LINES)
    return "\n".join(lines[max(first, 0) :][:ERROR_LINES])


def _cannot_start(command: Sequence[str], error: OSError, remedy: str | None) -> ToolError:
    return ToolError(f"{command[0]} cannot be run: {error.strerror}", command=list(command), remedy=remedy)


def _too_slow(command: Sequence[str], phase: str, timeout_s: float, *, tail: str = "") -> ToolError:
    return ToolError(
        f"{phase} did not end within {timeout_s:g} s: {command[0]} was killed",
        command=list(command), stderr=tail, remedy="try again on a quieter machine",
    )  # fmt: skip
