"""Wait for a machine to boot, show its phases, and explain a failure."""

from __future__ import annotations

import re
from pathlib import Path

from builder.progress import Reporter
from qemu import console
from qemu.console_file import ConsoleFile
from qemu.machine import VirtualMachine
from vboot.client.connected import TIMEOUT_S
from vboot.client.machine import MachineClient, connect
from vboot.errors import BootError
from vboot.protocol.errors import LinkLostError, MachineError, MachineTimeoutError

STEP = "boot"
_HELLO_S = 20.0
"""Under KVM; emulated machines take longer."""
# The line must have ended: it may still be growing.
_FAILED = re.compile(rb"vector_boot: FAILED: ([^\r\n]+)(?=[\r\n])")
_LAST_WORDS = re.compile(rb"(?:vector_boot: (?:FAILED|EMERGENCY): |(?=Kernel panic))([^\r\n]+)(?=[\r\n])")
_CONSOLE_TAIL = 1 << 20


def await_hello(
    machine: VirtualMachine,
    reporter: Reporter,
    *,
    timeout: float | None,
    memory_mib: int,
    need_mib: int,
    client: str,
    reboots: bool = False,
) -> MachineClient:
    """A client of the machine, which has answered hello. `memory_mib` is what it has, `need_mib` what it needs.

    `client` is the client's name. A machine that `reboots` is waited for although it says that it cannot start: it may
    start from its other slot.

    Raises BootError with the phase and the cause: the machine's own words where it said any.
    """
    seconds = _HELLO_S * machine.accel.scale if timeout is None else timeout
    watch = BootWatch(machine, reporter, reboots=reboots)
    try:
        try:
            connected = connect(machine.evolution, timeout=seconds, client=client, check=watch.check)
        except MachineError as error:
            if isinstance(error, LinkLostError):
                machine.check_after_loss()
            machine.check()
            late = isinstance(error, MachineTimeoutError)
            what = f"the machine did not answer hello within {seconds:g} s" if late else error.what
            raise machine.failure(what, outcome="timeout" if late else "failed") from error
    except BootError as error:
        raise explained(error, machine, memory_mib=memory_mib, need_mib=need_mib) from error
    watch.finish()
    connected.timeout = TIMEOUT_S
    machine.keep_served_ports()
    return connected


class BootWatch:
    """Checks a booting machine while something else waits for it."""

    def __init__(self, machine: VirtualMachine, reporter: Reporter, *, reboots: bool = False) -> None:
        self._machine = machine
        self._reboots = reboots
        self._reporter = reporter
        self._console = ConsoleFile(machine.console)
        self._shown: set[str] = set()
        self._up = False
        self._show("kernel")

    def check(self) -> None:
        """Show new phases. Raises BootError when the machine is dead, or says that it cannot start."""
        self._machine.check()
        if not self._up:
            self._follow()

    def finish(self) -> None:
        """The machine has booted: show the phases that it has reached; from now on only check that it is alive."""
        self._follow()
        self._up = True

    def _follow(self) -> None:
        window = self._console.read()
        for phase in console.phases(window):
            self._show(phase)
        # It may hold instead of powering off. A machine in emergency mode answers `hello`, which gives the reason.
        failed = _FAILED.search(window)
        if failed and not self._reboots:
            raise self._machine.failure(f"the machine failed: {console.clean(failed[1])}")

    def _show(self, phase: str) -> None:
        if phase not in self._shown:
            self._shown.add(phase)
            self._reporter.progress(STEP, phase, 0, 0)


def explained(error: BootError, machine: VirtualMachine, *, memory_mib: int, need_mib: int) -> BootError:
    """The error with its known causes: the last message of the machine, and too little memory."""
    what = error.what
    why = last_words(machine.console)
    if why is not None and why not in what:
        what = f"the machine failed: {why} in phase {error.phase} under {machine.accel.name}"
    if memory_mib < need_mib:
        what += f"; it has {memory_mib} MiB of memory and needs {need_mib}"
    better = BootError(what, phase=error.phase, artefacts=error.artefacts, remedy=error.remedy)
    for note in getattr(error, "__notes__", ()):
        better.add_note(note)
    return better


def last_words(log: Path) -> str | None:
    """The last sentence of a console log on why the machine failed: the appliance's, or the kernel's. None if none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _CONSOLE_TAIL))
            found = _LAST_WORDS.findall(file.read())
    except OSError:
        return None
    return console.clean(found[-1]) if found else None
