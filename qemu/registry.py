"""The register of this user's machines, by which they are found from any folder.

One small file for each run folder, in XDG_RUNTIME_DIR/vector_boot/runs, or where that is not set in
XDG_STATE_HOME/vector_boot/runs (~/.local/state). Both are read, since a service or cron does not set what a session
does, and beside them the run folders in build/run. An entry is only a hint: whether its machine runs is decided by
process id, start time and boot of the host. Nothing depends on it being writable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qemu.process import Process, reopen
from qemu.run_folder import RUNS, listens, open_run_folder
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.text import json_text, parse_path

_KEPT = ("run", "pid", "boot_id", "start_ticks", "started_wall", "evolution", "accel", "model", "state")
_MOST = 10_000


@dataclass(frozen=True)
class Entry:
    """A machine that was started once: its run folder, its process, and when and from what it was started.

    `state` is the file of its state disk, if it has one.
    """

    run: Path
    pid: int
    boot_id: str
    start_ticks: int
    started_wall: float
    evolution: Path
    accel: str
    model: str
    state: Path | None

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
        except (OSError, InputError):
            return False

    def has_folder(self) -> bool:
        """Whether its run folder is there and can be looked into."""
        try:
            return (self.run / "machine.json").exists()
        except OSError:
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
            state=parse_path(record["state"]) if record.get("state") else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def note(record: Mapping[str, Any]) -> None:
    """Enter the machine of this machine.json. It is no failure that the register cannot be written."""
    with contextlib.suppress(OSError, InputError):
        folder = _folders()[0]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(folder / _name(parse_path(record["run"]))) as file:
            file.write(json_text({name: record.get(name) for name in _KEPT}).encode() + b"\n")


def forget(run: Path) -> None:
    """Take out the entries of a run folder."""
    for folder in _folders():
        with contextlib.suppress(OSError):
            (folder / _name(run)).unlink()


def entries() -> list[Entry]:
    """All machines entered or with a run folder in build/run, the last started first.

    Entries without a run folder and a process are taken out, but none about which the host gives no answer.
    """
    found = {}
    for entry in (*_in_build_run(), *_entered()):
        found[entry.pid, entry.start_ticks, entry.boot_id] = entry
    return sorted(found.values(), key=lambda entry: entry.started_wall, reverse=True)


def _entered() -> Iterator[Entry]:
    for file in (file for folder in _folders() for file in _listed(folder, "*.json")):
        try:
            entry = parse_entry(file.read_bytes())
        except OSError:
            continue
        try:
            left = entry is not None and file.name == _name(entry.run) and _is_left(entry)
        except OSError:  # a path that is too long, not allowed, or of a file server that is away
            left = True
        if left and entry is not None:
            yield entry
        else:
            with contextlib.suppress(OSError):
                file.unlink()


def _in_build_run() -> Iterator[Entry]:
    """This user's machines in build/run of the working folder, also where they could not be entered."""
    for run in _listed(RUNS, "*"):
        with contextlib.suppress(OSError):
            entry = parse_entry((run / "machine.json").read_bytes())
            if entry is not None and run.stat().st_uid == os.geteuid():
                yield replace(entry, run=run.absolute())


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))[:_MOST]
    except OSError:
        return []


def running() -> list[Entry]:
    """The machines that run, the last started first."""
    return [entry for entry in entries() if _is_current(entry) and (entry.is_running() or entry.is_unseen())]


def running_in(run: Path) -> Entry | None:
    """The machine that runs and was started with this run folder, which may have been removed since."""
    wanted = run.resolve()
    return next((entry for entry in running() if entry.run.resolve() == wanted), None)


def _is_left(entry: Entry) -> bool:
    return (entry.run / "machine.json").exists() or entry.is_running()


def _is_current(entry: Entry) -> bool:
    """Whether the run folder, if it is there, is still that of this machine and not of one that came later."""
    try:
        own = parse_entry((entry.run / "machine.json").read_bytes())
    except OSError:
        return True
    return own is None or (own.pid, own.start_ticks) == (entry.pid, entry.start_ticks)


def _folders() -> tuple[Path, ...]:
    """Where entries may be, first where they are written. What a session sets and a service does not is guessed."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 -- never raises
    bases = (runtime, state) if runtime else (state, f"/run/user/{os.geteuid()}")
    return tuple(Path(base) / "vector_boot" / "runs" for base in bases)


def _name(run: Path) -> str:
    return hashlib.sha256(os.fsencode(run.absolute())).hexdigest()[:32] + ".json"
