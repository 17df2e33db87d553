"""Removing run folders of machines that have ended, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from qemu.launch import is_running
from qemu.registry import parse_entry
from qemu.run_folder import ARTEFACTS, SOCKETS_ELSEWHERE, listens, open_run_folder
from vboot.errors import InputError


def ended_runs(folder: Path) -> list[Path]:
    """The run folders directly in `folder` whose machine has ended, the last started first.

    A folder without a sound machine.json is none: it may belong to a machine that is just starting.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError, InputError):
            entry = None if path.is_symlink() else parse_entry((path / "machine.json").read_bytes())
            if entry is not None and not is_running(open_run_folder(path)):
                found.append((entry.started_wall, path))
    return [path for _, path in sorted(found, reverse=True)]


def damaged_runs(folder: Path) -> list[Path]:
    """The run folders directly in `folder` whose machine.json is damaged and whose machine does not answer, by name."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if path.is_symlink() or not (path / "machine.json").is_file():
                continue
            run = open_run_folder(path)
            try:
                is_running(run)
                damaged = parse_entry((path / "machine.json").read_bytes()) is None
            except InputError:
                damaged = True
            if damaged and not listens(run):
                found.append(path)
    return sorted(found)


def remove_run(path: Path) -> bool:
    """Remove a run folder, but no file that a run does not write; whether it is gone. A machine that runs keeps its."""
    try:
        folder = open_run_folder(path)
        if is_running(folder):
            return False
        own = {*ARTEFACTS, *(file.name for file in folder.socket_files())}
        if any(entry.name not in own and not _is_socket_link(entry) for entry in path.iterdir()):
            return False
        # Without it the folder is no run folder, so it goes last: an interrupted removal is continued by the next.
        for name in ARTEFACTS:
            if name != folder.machine.name:
                (path / name).unlink(missing_ok=True)
        folder.remove_sockets()
        folder.machine.unlink()
        path.rmdir()
    except (OSError, InputError):
        return False
    return True


def _is_socket_link(entry: Path) -> bool:
    return entry.name == SOCKETS_ELSEWHERE and entry.is_symlink()
