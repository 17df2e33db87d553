"""The register of this user's machines, by which they are found from any folder.

One small file for each run folder, in XDG_RUNTIME_DIR/vector_boot/runs, or where that is not set in
XDG_STATE_HOME/vector_boot/runs (~/.local/state). An entry is only a hint: whether its machine runs is decided by
process id, start time and boot of the host. Nothing depends on it being writable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.process import Process, reopen
from qemu.run_folder import listens, open_run_folder
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.text import json_text, parse_path

_KEPT = ("run", "pid", "boot_id", "start_ticks", "started_wall", "evolution", "accel", "model")
_MOST = 10_000


@dataclass(frozen=True)
class Entry:
    """A machine that was started once: its run folder, its process, and when and from what it was started."""

    run: Path
    pid: int
    boot_id: str
    start_ticks: int
    started_wall: float
    evolution: Path
    accel: str
    model: str

    def process(self) -> Process | None:
        """The machine's process, None when it is gone (or out of sight, see `is_unseen`)."""
        return reopen(self.pid, started=self.start_ticks, boot=self.boot_id)

    def is_running(self) -> bool:
        """Whether its process runs and can be seen from here."""
        process = self.process()
        if process is not None:
            process.forget()
        return process is not None

    def is_unseen(self) -> bool:
        """Whether a machine answers at its sockets, though its process is not to be found: as from a container."""
        try:
            return not self.is_running() and listens(open_run_folder(self.run))
        except InputError:
            return False


def parse_entry(data: bytes) -> Entry | None:
    """What a file of the register, or machine.json, says; None if it is damaged."""
    try:
        record = json.loads(data)
        return Entry(
            run=parse_path(record["run"]),
            pid=int(record["pid"]),
            boot_id=str(record["boot_id"]),
            start_ticks=int(record["start_ticks"]),
            started_wall=float(record["started_wall"]),
            evolution=parse_path(record["evolution"]),
            accel=str(record["accel"]),
            model=str(record.get("model") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def note(record: Mapping[str, Any]) -> None:
    """Enter the machine of this machine.json. It is no failure that the register cannot be written."""
    folder = _folder()
    with contextlib.suppress(OSError, InputError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(_file(parse_path(record["run"]))) as file:
            file.write(json_text({name: record.get(name) for name in _KEPT}).encode() + b"\n")


def forget(run: Path) -> None:
    """Take out the entry of a run folder."""
    with contextlib.suppress(OSError):
        _file(run).unlink()


def entries() -> list[Entry]:
    """All machines entered, the last started first. Entries without a run folder and a process are taken out."""
    found = []
    with contextlib.suppress(OSError):
        for file in list(_folder().glob("*.json"))[:_MOST]:
            entry = _read(file)
            if entry is not None and file.name == _file(entry.run).name and _is_left(entry):
                found.append(entry)
            else:
                with contextlib.suppress(OSError):
                    file.unlink()
    return sorted(found, key=lambda entry: entry.started_wall, reverse=True)


def running() -> list[Entry]:
    """The machines that run, the last started first."""
    return [entry for entry in entries() if _is_current(entry) and (entry.is_running() or entry.is_unseen())]


def _is_left(entry: Entry) -> bool:
    return (entry.run / "machine.json").exists() or entry.is_running()


def _is_current(entry: Entry) -> bool:
    """Whether the run folder, if it is there, is still that of this machine and not of one that came later."""
    try:
        own = parse_entry((entry.run / "machine.json").read_bytes())
    except OSError:
        return True
    return own is None or (own.pid, own.start_ticks) == (entry.pid, entry.start_ticks)


def _read(file: Path) -> Entry | None:
    try:
        return parse_entry(file.read_bytes())
    except OSError:
        return None


def _folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "vector_boot" / "runs"


def _file(run: Path) -> Path:
    return _folder() / (hashlib.sha256(os.fsencode(run.absolute())).hexdigest()[:32] + ".json")
