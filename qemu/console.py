"""What the serial console says: boot phases, panics, emergencies. Pure: raw console bytes in, facts out.

The console is evidence for people; it may be cut anywhere, hold firmware escapes, and kernel lines may share a line
with the appliance's. So every function accepts any bytes and reports only what is certain.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

BootPhase: TypeAlias = Literal["spawn", "firmware", "kernel", "init", "payload", "ready", "command", "bye"]

BOOT_PHASES: tuple[BootPhase, ...] = ("spawn", "firmware", "kernel", "init", "payload", "ready", "command", "bye")
"""The life of a machine, in order. A failure names the one it happened in."""

MILESTONES = ("Neural Runtime initialized", "GGUF tensors loaded", "Entering Heartbeat Loop")
"""What the appliance says for people when its runtime, its tensors and its heartbeat are there."""

# A number at the very end of the bytes may be cut short, so one more byte must follow it.
_PHASE_LINE = re.compile(rb"vector_boot: phase=([a-z_]{1,32}) t_us=([0-9]{1,18})(?=[^0-9])")
_KERNEL = re.compile(rb"Linux version |^\[ *[0-9]+\.[0-9]{6}\] |Decompressing Linux|EFI stub:", re.MULTILINE)
_PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]*")
_EMERGENCY = re.compile(rb"vector_boot: emergency[^\r\n]*", re.IGNORECASE)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def phases(console: bytes) -> dict[str, int]:
    """Microseconds since process start of each `vector_boot: phase=NAME t_us=N`, in order of appearance.

    The first line of a name wins: later ones come from a runtime that was started again.
    """
    found: dict[str, int] = {}
    for match in _PHASE_LINE.finditer(console):
        found.setdefault(match[1].decode("ascii"), int(match[2]))
    return found


def milestones(console: bytes) -> tuple[str, ...]:
    """Those of `MILESTONES` that the console holds, in their own order."""
    return tuple(text for text in MILESTONES if text.encode() in console)


def panic(console: bytes) -> str | None:
    """The kernel's `Kernel panic - not syncing: ...` line from that text on, or None."""
    match = _PANIC.search(console)
    return clean(match[0]) if match else None


def emergency(console: bytes) -> str | None:
    """The appliance's `vector_boot: emergency ...` line from that text on, or None."""
    match = _EMERGENCY.search(console)
    return clean(match[0]) if match else None


def boot_phase(console: bytes) -> BootPhase:
    """How far a machine that printed this got: `firmware` (or silence), `kernel`, `init`, `payload`, `ready`."""
    seen = phases(console)
    if "heartbeat" in seen:
        return "ready"
    if seen.keys() & {"mounts", "runtime", "tensors", "evolution"}:
        return "payload"
    if "start" in seen:
        return "init"
    return "kernel" if _KERNEL.search(console) else "firmware"


def clean(text: bytes) -> str:
    """Text that is safe to print: UTF-8, bad bytes replaced, terminal escapes and control characters removed."""
    return _CONTROL.sub("", _ESCAPE.sub("", text.decode("utf-8", "replace")))


def tail(console: bytes, *, lines: int = 40) -> str:
    """The last lines, each `clean`, blank lines at the end left out."""
    # Firmware and kernel end lines with CR LF; a bare CR overwrites the line, which a log need not do.
    rows = [clean(row) for row in console.replace(b"\r\n", b"\n").split(b"\n")]
    while rows and not rows[-1].strip():
        rows.pop()
    return "\n".join(rows[-lines:])
