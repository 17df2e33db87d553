"""The pairs of a run: read from where `--data` says, and kept in the run's folder, so that the run can go on with them.

Package lists and files change; the copy does not. It is a file of pairs like the user's own.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.evolve.runs import KEPT_PAIRS, Origin, find_origin
from evolution.fitness import debian, pairs_file
from evolution.fitness.contract import Dataset
from evolution.fitness.split import split
from vboot.errors import InputError, VbootError
from vboot.files import atomic_write
from vboot.text import path_text

DEBIAN = "debian"
"""The value of `--data` for the package descriptions of this host."""


@dataclass(frozen=True)
class RunData:
    """A run's data, and where they came from: the value of `--data` in a form that is valid in any folder."""

    dataset: Dataset
    source: str


NEW_RUN = "begin a new run with --folder DIR"
_REPORT_OWN = "leave --data out to use its own pairs, or use --no-report"
_REPORT_ORIGINAL = "give the original pairs with --data, or use --no-report"


def run_data(folder: Path, given: str | None, *, for_report: bool = False) -> RunData:
    """The data for the run in a folder, which may not exist yet: the copy in it, else what `given` names.

    `for_report`: only a report is made, of which the user gave the folder. Raises InputError if `given` (None: not
    given) has other pairs than the run, or these cannot be found; ToolError.
    """
    origin = find_origin(folder)
    if origin is None:
        return RunData(read_pairs(given or DEBIAN), lasting(given or DEBIAN))
    kept = _kept(folder, origin)
    if kept is None:
        return RunData(_original(folder, origin, given, for_report=for_report), origin.data)
    if given is not None and (lasting(given) != origin.data or given != DEBIAN):
        _compare(folder, origin, given, for_report=for_report)
    return RunData(kept, origin.data)


def known_pairs(folder: Path, given: str) -> Dataset | None:
    """The pairs that the run in a folder began with: its copy, or what `given` names; None if they are not here."""
    try:
        origin = find_origin(folder)
        if origin is None:
            return None
        found = _kept(folder, origin) or read_pairs(given)
    except VbootError:
        return None
    return found if found.sha256 == origin.sha256 else None


def keep(folder: Path, data: RunData) -> None:
    """Write the copy of a run's data to its folder, unless it is there. Raises InputError if they are too large."""
    path = folder / KEPT_PAIRS
    search, held_out = data.dataset.search, data.dataset.held_out
    text = pairs_file.dump((*search.train, *search.calibration, *search.watch, *held_out), name=data.dataset.source)
    if not path.exists() or path.read_bytes() != text:
        with atomic_write(path) as file:
            file.write(text)


def read_pairs(given: str) -> Dataset:
    """The pairs that a value of `--data` names, split. Raises InputError, ToolError."""
    if given == DEBIAN:
        return split(debian.read_pairs(), source=debian.SOURCE)
    if Path(given).is_dir():
        return split(debian.read_pairs(Path(given), status=None), source=debian.SOURCE)
    return split(pairs_file.read(Path(given)), source=given)


def lasting(data: str) -> str:
    """The value of `--data` as an absolute path, valid from any folder."""
    return data if data == DEBIAN else str(Path(data).absolute())


def _kept(folder: Path, origin: Origin) -> Dataset | None:
    """The copy of the data; None if the run has none."""
    path = folder / KEPT_PAIRS
    if not path.exists():
        return None
    source = debian.SOURCE if origin.data == DEBIAN or Path(origin.data).is_dir() else origin.data
    try:
        kept = split(pairs_file.read(path), source=source)
    except InputError as error:
        raise _damaged(path, origin) from error
    if kept.sha256 != origin.sha256:
        raise _damaged(path, origin)
    return kept


def _damaged(path: Path, origin: Origin) -> InputError:
    what = f"{path_text(path)}, the run's copy of its pairs, has been changed"
    return InputError(what, remedy=f"restore it from a backup, or remove it if {origin.data} still has the same pairs")


def _original(folder: Path, origin: Origin, given: str | None, *, for_report: bool) -> Dataset:
    """The data of a run without a copy, from where they came from. Raises InputError if they have changed."""
    wanted = origin.data if given is None else given
    found = read_pairs(wanted)
    if found.sha256 != origin.sha256:
        what = f"{wanted} has other pairs than those that the run in {path_text(folder)} began with, and it has no copy"
        remedy = f"give the original pairs with {_again(folder)} --data FILE, or {NEW_RUN}"
        raise InputError(what, remedy=_REPORT_ORIGINAL if for_report else remedy)
    return found


def _compare(folder: Path, origin: Origin, given: str, *, for_report: bool) -> None:
    """Say that the source has changed. Raises InputError if another one was given, with other pairs."""
    try:
        same = read_pairs(given).sha256 == origin.sha256
    except VbootError:
        if lasting(given) != origin.data:
            raise
        same = False
    if same:
        return
    if lasting(given) != origin.data:
        what = f"{given} has other pairs than those that the run in {path_text(folder)} began with"
        remedy = f"give {_again(folder)} without --data to use its own pairs, or {NEW_RUN}"
        raise InputError(what, remedy=_REPORT_OWN if for_report else remedy)
    text = f"{given} has changed since this run began, which goes on with its copy {path_text(folder / KEPT_PAIRS)}"
    sys.stderr.write(f"evolve: {text}; --folder DIR begins a new run\n")


def _again(folder: Path) -> str:
    """The option that names this run: other data alone would select another default folder."""
    return f"--folder {shlex.quote(path_text(folder))}"
