"""Finding the machine that a verb is about, and what its console tells of its end."""

from __future__ import annotations

import re
from pathlib import Path

from qemu.console import clean
from qemu.launch import attach
from qemu.machine import Machine as VirtualMachine
from vboot_errors import BootError, InputError, VbootError

RUNS = Path("build/run")
"""Where `vboot boot` keeps its run folders."""

_NEWEST_LOOKED_AT = 100
_LAST_WORDS = re.compile(rb"vector_boot: (?:FAILED|EMERGENCY): ([^\r\n]+)(?=[\r\n])")
_CONSOLE_TAIL = 1 << 20


def newest_running(runs: Path = RUNS) -> VirtualMachine:
    """The machine that was started last and still runs. Raises InputError when none does."""
    folders = [path for path in runs.iterdir() if path.is_dir()] if runs.is_dir() else []
    for folder in sorted(folders, key=lambda path: path.name, reverse=True)[:_NEWEST_LOOKED_AT]:
        try:
            return attach(folder)
        except VbootError:
            continue
    raise InputError(f"no machine runs in {runs}", remedy="boot one with `vboot boot`, or name its run folder")


def find_machine(given: Path | None) -> VirtualMachine | Path:
    """The machine of a run folder (None: the newest that runs), or the path of an evolution socket.

    Raises InputError when `given` is neither, BootError when that machine has ended.
    """
    if given is None:
        return newest_running()
    if given.is_socket():
        return given
    if not given.is_dir():
        what = f"{given} is {'neither a run folder nor a socket' if given.exists() else 'not there'}"
        raise InputError(what, remedy="give the folder that boot printed, or an evolution socket")
    return attach(given)


def last_words(console: bytes) -> str | None:
    """The appliance's last sentence on why it failed, or is in emergency mode; None if it said none. Pure."""
    found = _LAST_WORDS.findall(console)
    return clean(found[-1]) if found else None


def explained(machine: VirtualMachine, error: BootError) -> BootError:
    """The same error with the appliance's own reason for it, if its console holds one."""
    why = last_words(_tail(machine.console))
    if why is None or why in error.what:
        return error
    what = f"the machine failed: {why} (phase {error.phase}, {machine.accel.name})"
    return BootError(what, phase=error.phase, artefacts=error.artefacts, remedy=error.remedy)


def _tail(console: Path) -> bytes:
    try:
        with console.open("rb") as file:
            file.seek(max(0, console.stat().st_size - _CONSOLE_TAIL))
            return file.read()
    except OSError:
        return b""
