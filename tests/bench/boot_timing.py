"""Boots a machine once and records when its console printed which text, by the host's clock."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from qemu.accel import Accel
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.support.evolution_port.expect import machine_port

HANDED_OVER = "Run /init as init process"
"""The line that the kernel prints immediately before it executes PID 1."""
APPEND = "console=ttyS0 panic=-1 quiet sysctl.kernel.printk=7"
"""Quiet until the kernel sets its sysctls, just before it starts PID 1, so only that line is printed."""

_DEADLINE_SECONDS = 30.0
_POLL_SECONDS = 0.001
_CHECK_SECONDS = 0.1
_STATS_SECONDS = 10.0


@dataclass(frozen=True)
class Boot:
    """One start: `seconds` from QEMU's start to each text awaited, what the `console` held then, `anon_bytes`.

    `anon_bytes` is the memory of PID 1 and worker together without weights, RssAnon and RssShmem; 0 if not asked for.
    """

    seconds: dict[str, float]
    console: bytes
    anon_bytes: int


def boot(spec: MachineSpec, *, accel: Accel, texts: tuple[str, ...], run: Path, ask_memory: bool) -> Boot:
    """Start a machine, wait until all `texts` (regular expressions) are on its console, and end it.

    With `ask_memory` its evolution port is asked for the memory in between. Raises BootError when a text does not
    come, or the machine dies.
    """
    started = time.monotonic()
    with start(spec, accel=accel, run=run) as machine:
        seen = _wait_for(machine, (HANDED_OVER, *texts), seconds=_DEADLINE_SECONDS * accel.scale)
        anon_bytes = _anon_bytes(machine) if ask_memory else 0
        console = machine.console.read_bytes()
    return Boot({text: at - started for text, at in seen.items()}, console, anon_bytes)


def _wait_for(machine: VirtualMachine, texts: tuple[str, ...], *, seconds: float) -> dict[str, float]:
    """The monotonic time at which each text was on the console, to a millisecond or two."""
    patterns = {text: re.compile(text.encode()) for text in texts}
    seen: dict[str, float] = {}
    size = 0
    next_check = 0.0
    until = time.monotonic() + seconds
    while len(seen) < len(patterns):
        now = time.monotonic()
        if machine.console.stat().st_size > size:
            said = machine.console.read_bytes()
            size = len(said)
            seen |= {text: now for text, pattern in patterns.items() if text not in seen and pattern.search(said)}
        if now > next_check:
            machine.check()
            next_check = now + _CHECK_SECONDS
        if now > until:
            missing = ", ".join(text for text in texts if text not in seen)
            raise machine.failure(f"not on the console within {seconds:g} s: {missing}", outcome="timeout")
        time.sleep(_POLL_SECONDS)
    return seen


def _anon_bytes(machine: VirtualMachine) -> int:
    """Asked repeatedly until both processes were measured, which the machine does from its first beat on."""
    seconds = _STATS_SECONDS * machine.accel.scale
    until = time.monotonic() + seconds
    with machine_port(machine) as port:
        port.resync()
        while time.monotonic() < until:
            stats = port.request("stats").result or {}
            parts = [int(stats.get(process, {}).get("anon_bytes", 0)) for process in ("supervisor", "worker")]
            if all(parts):
                return sum(parts)
            time.sleep(_CHECK_SECONDS)
    raise machine.failure(f"the machine did not measure its memory within {seconds:g} s", outcome="timeout")
