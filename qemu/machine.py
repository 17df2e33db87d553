"""A running machine, checked during every wait and never left running by accident. `qemu.launch` makes one.

Every wait has a deadline, looks at the QEMU process and at the console while it waits, and ends with a BootError that
names the phase the machine was in and the run folder with the logs. Deadlines given by the caller are taken as
they are; the defaults are multiplied by the accelerator's scale.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.accel import Accel
from qemu.console import BOOT_PHASES, BootPhase
from qemu.console_file import ConsoleFile, ConsoleMatch, ConsoleState
from qemu.ending import POWERED_OFF, ran_out_of_memory, unwatched
from qemu.monitor import Monitor
from qemu.process import Process
from qemu.run_folder import RunFolder
from qemu.spec import PORT_LABEL
from qemu.verdict import RunOutcome, RunVerdict
from vboot.errors import BootError, InputError
from vboot.port_files import lock_file, port_socket
from vboot.text import path_text

_DEADLINES = {"spawn": 5.0, "console": 20.0, "qmp": 5.0, "exit": 10.0, "quit": 2.0, "terminate": 2.0, "kill": 5.0}
"""Seconds under KVM for each wait."""
_FLOOD = 64 << 20
"""The most bytes on the console within one wait; more would fill the disk without being useful."""
_POLL = 0.02
_ENDING_S = 2.0
"""Seconds that QEMU may take to end after it has closed its sockets."""
_LAST_WORDS = 0.25
"""Seconds that a dying machine gets to complete its stack trace and exit status."""


class VirtualMachine:
    """One QEMU process and its run folder. A context manager: leaving it stops the machine, or lets go of it."""

    def __init__(
        self,
        process: Process,
        folder: RunFolder,
        record: dict[str, Any],
        *,
        detach: bool = False,
        attached: bool = False,
    ) -> None:
        self.run = folder.path
        self.folder = folder
        self.accel = Accel(record["accel"], record["accel_reason"])
        self._record = record
        self._process = process
        self._detach = detach
        self._attached = attached
        self._console = ConsoleState(folder.console)
        self._monitor: Monitor | None = None
        self._qemu_version = ""
        self._phase: BootPhase = "firmware" if attached else "spawn"
        self._failed = False
        self._closed = False
        self._timeouts: dict[str, float] = {}

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def evolution(self) -> Path:
        """The evolution port's Unix socket."""
        return self.folder.endpoints.evolution

    @property
    def qmp_socket(self) -> Path:
        """QEMU's control socket. It serves one connection at a time: `release` ours before another wants it."""
        return self.folder.endpoints.qmp

    @property
    def console(self) -> Path:
        """The serial console's log, raw, from its first byte."""
        return self.folder.console

    @property
    def phase(self) -> BootPhase:
        """The phase the machine is in, as far as its console, its control socket and its users have shown."""
        seen = self._console.boot_phase
        # A silent console is in its firmware only if QEMU is up.
        if self._phase == "spawn" and seen == "firmware":
            return "spawn"
        return max(self._phase, seen, key=BOOT_PHASES.index)

    def describe(self) -> dict[str, object]:
        """How to reach it: `run`, `pid`, `evolution`, `qmp`, `console`, `accel`, and `command`, quoted for a shell.

        Also `state`, the file of its state disk, if it has one, and `disk`, the image that firmware booted.
        """
        names = ("run", "pid", "evolution", "qmp", "console", "accel", "command", "state", "disk")
        return {name: self._record[name] for name in names if name in self._record}

    def check(self, phase: BootPhase = "spawn") -> None:
        """Raise BootError if the machine is dead or dying; else note that its user is now at `phase`."""
        if self._is_doomed():
            ended = self._process.wait(_LAST_WORDS * self.accel.scale)
            self._console.finish()
            if self._console.panic or not ended:
                raise self.failure(f"the guest died ({self._console.panic})", outcome="panic")
            raise self._dead()
        self._phase = max(self._phase, phase, key=BOOT_PHASES.index)

    def _dead(self) -> BootError:
        how = self._how_it_ended()
        memory = self._record.get("memory_mib")
        if not ran_out_of_memory(self.folder):
            return self.failure(f"QEMU ended {how}", outcome="died")
        asked = f", of which the machine was to have {memory} MiB" if memory else ""
        what = f"QEMU got too little memory from the host{asked}: it ended {how}"
        remedy = "free memory, raise the limit (`ulimit -v`), or give the machine less with --memory"
        return self.failure(what, outcome="died", remedy=remedy)

    def check_after_loss(self) -> None:
        """Like `check`, for a user whose connection broke: a dying QEMU closes its sockets a moment before it ends."""
        self._process.wait(_ENDING_S)
        self.check()

    def failure(self, what: str, *, outcome: RunOutcome = "failed", remedy: str = "") -> BootError:
        """Write the verdict of a failure, and make its error: phase, accelerator, last console lines, run folder."""
        error = BootError(
            f"{what} in phase {self.phase} under {self.accel.name}",
            phase=self.phase,
            artefacts=self.run,
            remedy=f"{remedy}; see {path_text(self.run)}" if remedy else f"see {path_text(self.run)}",
        )
        tail = self._console.tail()
        if tail:
            error.add_note(f"the last lines of {path_text(self.console)}:\n{tail}")
        self._write_verdict(outcome, what)
        self._failed = True
        return error

    def await_qmp(self, *, timeout: float | None = None) -> None:
        """Wait until QEMU answers on its control socket: from then on every socket of the machine exists."""
        seconds = self._deadline("spawn", timeout)
        try:
            self._connected(seconds, self.check)
        except BootError as error:
            if self._failed:
                raise
            self._process.wait(_LAST_WORDS)
            self.check()
            raise self.failure(error.what, outcome="timeout") from error
        self.check("firmware")

    def wait_for_console(self, pattern: str, *, start: int = 0, timeout: float | None = None) -> ConsoleMatch:
        """Wait until the console, from byte `start` on, holds the regular expression `pattern`. Raises BootError.

        The text may span 4 KiB. It may still be growing: end the pattern with what ends the text.
        """
        seconds = self._deadline("console", timeout)
        until = time.monotonic() + seconds
        limit = self._console.size() + _FLOOD
        file = ConsoleFile(self.console, start)
        expression = re.compile(pattern.encode(), re.MULTILINE)
        while True:
            # Checked before the console is read: the last output of a dying machine still counts.
            doomed = self._is_doomed()
            match = file.search(expression, until=until, limit=limit)
            if match is not None:
                return match
            if doomed:
                self.check()
            self._refuse_flood(limit)
            if time.monotonic() > until:
                raise self.failure(f"{pattern!r} was not on the console within {seconds:g} s", outcome="timeout")
            self._process.wait(_POLL)

    def wait_exit(self, *, timeout: float | None = None) -> int | None:
        """Wait until the guest has powered off and QEMU has ended; its exit status (None when it is not our child).

        Raises BootError when it does not end in time, or ended by a kernel panic.
        """
        seconds = self._deadline("exit", timeout)
        until = time.monotonic() + seconds
        limit = self._console.size() + _FLOOD
        while not self._process.wait(_POLL):
            self._console.update()
            if self._console.panic:
                self.check()
            self._refuse_flood(limit)
            if time.monotonic() > until:
                raise self.failure(f"the machine did not power off within {seconds:g} s", outcome="timeout")
        self._console.finish()
        if self._console.panic or (self._process.status or 0) < 0:
            self.check()
        self._close("ended", f"QEMU ended {self._how_it_ended()}")
        return self._process.status

    def qmp(self, name: str, /, *, timeout: float | None = None, **arguments: object) -> Any:
        """Run one QMP command and return its result. Raises BootError."""
        seconds = self._deadline("qmp", timeout)
        try:
            return self._connected(seconds, self.check).execute(name, arguments, seconds=seconds)
        except BootError as error:
            # QEMU closes QMP shortly before it ends; the error is that it ended.
            if self._monitor is None or not self._monitor.connected:
                self._process.wait(_LAST_WORDS)
            self.check()
            raise BootError(
                error.what, phase="command", artefacts=self.run, remedy=f"see {path_text(self.run)}"
            ) from error

    def keep_served_ports(self) -> None:
        """Remove the sockets of the ports that the guest has not opened: an old guest serves only port 0.

        To be called once the guest has answered on one of them. Raises BootError.
        """
        devices = self.qmp("query-chardev")
        for device in devices if isinstance(devices, list) else []:
            number = str(device.get("label")).removeprefix(PORT_LABEL)
            if number.isdecimal() and not device.get("frontend-open"):
                socket = port_socket(self.evolution, int(number))
                for path in (socket, lock_file(socket)):
                    path.unlink(missing_ok=True)

    def powerdown(self) -> None:
        """Press the power button (ACPI). The guest may need time, or ignore it; see `wait_exit`."""
        self.qmp("system_powerdown")
        self.check("bye")

    def stop(self, *, grace: float | None = None) -> int | None:
        """End QEMU, without asking the guest: QMP quit, then SIGTERM, then SIGKILL, each with its deadline.

        `grace` replaces the first two deadlines. Returns the exit status, None when it is not our child.
        """
        if not self._process.wait(0):
            self._ask_to_quit(self._deadline("quit", grace))
        if not self._process.wait(0):
            self._process.signal(signal.SIGTERM)
            self._process.wait(self._deadline("terminate", grace))
        self._kill()
        self._close("stopped", f"QEMU ended {self._how_it_ended()}")
        return self._process.status

    def kill(self) -> None:
        """End QEMU at once, as a power cut would: SIGKILL. Its disks keep what was flushed."""
        self._kill()
        self._close("stopped", "killed")

    def release(self) -> None:
        """Stop watching a detached machine. It keeps running, and its control socket is free for others."""
        if not self._closed:
            self._close("detached", "it runs on")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        # A re-opened machine is not ours to end: its user may only have mistyped something.
        if error is not None and not self._attached:
            self.abandon(error)
        elif self._detach or self._attached:
            self.release()
        else:
            self.stop()

    def abandon(self, error: BaseException) -> None:
        """Kill the machine because its user failed, and record that, unless its own failure is recorded."""
        self._kill()
        outcome: RunOutcome = "failed" if isinstance(error, Exception) else "interrupted"
        self._close(outcome, str(error) or type(error).__name__)

    def _kill(self) -> None:
        seconds = self._deadline("kill", None)
        if not self._process.kill(seconds=seconds):
            raise self.failure(f"QEMU (process {self.pid}) could not be killed within {seconds:g} s", outcome="failed")

    def _ask_to_quit(self, seconds: float) -> None:
        # It may end while we ask, or not listen: the next step is a signal either way, so nothing here is a failure.
        with contextlib.suppress(BootError):
            self._connected(seconds, self._raise_if_ended).execute("quit", seconds=seconds)
            self._process.wait(seconds)

    def _raise_if_ended(self) -> None:
        if self._process.wait(0):
            raise BootError("QEMU has ended", phase="bye")

    def _connected(self, seconds: float, check: Callable[[], None]) -> Monitor:
        if self._monitor is None:
            monitor = Monitor()
            try:
                self._qemu_version = monitor.connect(self.qmp_socket, seconds=seconds, check=check)
            except BaseException:
                monitor.close()
                raise
            self._monitor = monitor
        return self._monitor

    def _refuse_flood(self, limit: int) -> None:
        if self._console.size() > limit:
            raise self.failure(f"the guest floods its console (over {_FLOOD >> 20} MiB)")

    def _is_doomed(self) -> bool:
        ended = self._process.wait(0)
        self._console.update()
        return ended or self._console.panic is not None

    def _deadline(self, name: str, seconds: float | None) -> float:
        self._timeouts[name] = _DEADLINES[name] * self.accel.scale if seconds is None else seconds
        return self._timeouts[name]

    def _how_it_ended(self) -> str:
        status = self._process.status
        if status is None:
            how = unwatched(self.folder)
            return "by itself" if how == POWERED_OFF else f"unexpectedly: {how}"
        if status < 0:
            return f"by signal {-status} ({signal.strsignal(-status)})"
        return f"with status {status}{self._last_word() if status else ''}"

    def _last_word(self) -> str:
        try:
            last = self.folder.qemu_log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        except OSError:
            return ""
        return f" ({last})" if last else ""

    def _write_verdict(self, outcome: RunOutcome, why: str) -> None:
        verdict = RunVerdict(
            outcome=outcome,
            phase=self.phase,
            why=why,
            accel=self.accel,
            qemu_version=self._qemu_version,
            started_wall=self._record["started_wall"],
            duration_s=round(time.monotonic() - self._record["started_monotonic"], 3),
            exit_status=self._process.status,
            timeouts_s=self._timeouts,
            phases_us=self._console.phases(),
            events=self._monitor.events() if self._monitor else [],
            inputs=self._record["inputs"],
            console_tail=self._console.tail(),
        )
        # A full disk, or a run folder that was removed, must not take the place of what went wrong before.
        with contextlib.suppress(OSError, InputError):
            self.folder.write_json(self.folder.verdict, verdict.to_json())

    def _close(self, outcome: RunOutcome, why: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._console.update()
        if not self._failed:
            self._write_verdict(outcome, why)
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if outcome == "detached":
            self._process.forget()
        else:
            self.folder.remove_sockets()
