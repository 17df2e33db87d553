"""Starting and ending one child process without ever leaving an orphan.

A `Process` is watched through a pidfd, so a wait ends the moment the process does, and a signal can never reach a
stranger that was given the same number.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from vboot.errors import ToolError

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: between fork and exec the child must do next to nothing.
_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


class Process:
    """A running process that leads its own session; ours to reap when we started it, a stranger's when re-opened."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.status: int | None = None
        """Exit status, or minus the signal's number; None while it runs, and for ever when another process reaps it."""
        self._pidfd = pidfd
        self._ended = False

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` (0: only look); True once the process has ended."""
        if self._ended:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if poller.poll(max(0.0, seconds) * 1000):
            self._reap()
        return self._ended

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; nothing happens when it has ended."""
        if not self.wait(0):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self, *, seconds: float = 5.0) -> bool:
        """SIGKILL the process and whatever it started in its session; True once it has ended, False after `seconds`."""
        if not self.wait(0):
            self._kill_group()
        return self.wait(seconds)

    def forget(self) -> None:
        """Stop watching it; it runs on."""
        if not self._ended:
            self._ended = True
            os.close(self._pidfd)

    def _kill_group(self) -> None:
        # Only while the leader is unreaped: so long the group's number cannot mean another group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _reap(self) -> None:
        self._kill_group()
        # Not our child (re-opened, or started by an earlier run): its parent learns the status, we cannot.
        with contextlib.suppress(ChildProcessError):
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended = True
        os.close(self._pidfd)


def spawn(command: list[str], *, log: Path, detach: bool = False) -> Process:
    """Start `command` in its own session, stdin empty, stdout and stderr written to the file `log`.

    Its umask is 0177: files and sockets that it creates are for this user alone. Unless `detach`, the kernel kills it
    when the calling thread ends, for whatever reason: start machines from a thread that outlives them. Raises ToolError
    when the program cannot be started.
    """
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o177,
                preexec_fn=None if detach else _die_with(os.getpid()),  # noqa: PLW1509  one system call, see above
            )
        except OSError as error:
            raise ToolError(
                f"{command[0]} could not be started ({error.strerror})",
                command=command,
                remedy="install QEMU (Debian: qemu-system-x86) or name another program",
            ) from error
    # From here on Process waits for it; Popen's finaliser must not.
    child.returncode = 0
    return Process(child.pid, os.pidfd_open(child.pid))


def _die_with(parent: int) -> Callable[[], None]:
    def ask_kernel() -> None:
        # The parent may have died between fork and prctl; then no signal will ever come.
        if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    return ask_kernel


def _has_ended(pidfd: int) -> bool:
    """Whether its process has ended, also if its status was not collected yet (a zombie)."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def boot_id() -> str:
    """The kernel's identifier of this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the host's boot (/proc/PID/stat, field 22); None when it is gone."""
    try:
        # The name, field 2, is in parentheses and may hold any bytes, so count from the last parenthesis.
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])


def reopen(pid: int, *, started: int, boot: str) -> Process | None:
    """The process with this pid that started at `started` (`start_ticks`) of the boot `boot` (`boot_id`).

    None when it is gone. The command line is not compared: QEMU doubles commas in it.
    """
    if boot != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # The pidfd was opened first: it refers to the process that is examined now, or that process has already ended.
    if start_ticks(pid) != started or _has_ended(pidfd):
        os.close(pidfd)
        return None
    return Process(pid, pidfd)
