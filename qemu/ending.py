"""How a machine ended that nobody watched, from what its run folder holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from qemu import console
from qemu.console_file import ConsoleState
from qemu.run_folder import RunFolder

POWERED_OFF = "the guest powered off"
_OFF = re.compile(r"reboot: (Power down|Restarting system|System halted)")
_LOG_TAIL = 4096
_NO_MEMORY = re.compile(
    r"cannot set up guest memory|Cannot allocate memory|failed to allocate \d+ bytes|Could not allocate"
    r"|out of memory|Failed to allocate memory",
    re.IGNORECASE,
)


def ending(folder: RunFolder) -> str:
    """How the machine of a run folder ended, as the rest of "the machine has ended: ..."."""
    try:
        verdict = json.loads(folder.verdict.read_bytes())
        if verdict["outcome"] != "detached":
            return console.clean(str(verdict["why"]).encode())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return unwatched(folder)


def unwatched(folder: RunFolder) -> str:
    """What console and QEMU's own log tell of the end of a machine whose exit status nobody collected."""
    state = ConsoleState(folder.console)
    state.finish()
    if state.panic:
        return f"the guest died ({state.panic})"
    last = _OFF.search(state.tail(lines=5))
    if last:
        return POWERED_OFF if last[1] == "Power down" else f"the guest ended ({last[1]})"
    said = _last_line(folder.qemu_log)
    return f"QEMU ended before the guest powered off{f' ({said})' if said else ': it was killed, or crashed'}"


def ran_out_of_memory(folder: RunFolder) -> bool:
    """Whether QEMU said that it got no memory from the host."""
    return _NO_MEMORY.search(_tail(folder.qemu_log)) is not None


def _last_line(log: Path) -> str:
    return console.clean(_tail(log).strip().rpartition("\n")[2].encode())


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
    except OSError:
        return ""
