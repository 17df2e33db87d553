"""Reading the runs in folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evolution.daemon.run_folder import EvolutionRunFolder
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.text import path_text
from vboot.weights.edits import Edit

_ORIGIN_FILE = "origin.json"
KEPT_PAIRS = "pairs.jsonl"
"""The copy of a run's pairs in its folder."""


@dataclass(frozen=True)
class Origin:
    """The inputs of a run: its initial model, the value of `--data`, and the SHA-256 (hex) of the data."""

    model: str
    data: str
    sha256: str


def save_origin(path: Path, origin: Origin) -> None:
    """Save it in the run's folder, for reports. Raises InputError."""
    with atomic_write(path / _ORIGIN_FILE) as file:
        file.write(json.dumps(asdict(origin)).encode())


def load_origin(path: Path) -> Origin:
    """The inputs of the run in a folder. Raises InputError if it is not a run's folder, or does not record them."""
    _require_run(path)
    file = path / _ORIGIN_FILE
    what = f"{path_text(file)} does not say what the run began with"
    if not file.exists():
        raise InputError(f"{path_text(file)} is missing", remedy="go on with the run first, which writes it")
    remedy = f"restore it from a backup, or remove {path_text(file)} and go on with the run, which writes it again"
    try:
        members = json.loads(file.read_bytes())
        origin = Origin(**members)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(what, remedy=remedy) from error
    if not all(isinstance(value, str) for value in members.values()):
        raise InputError(what, remedy=remedy)
    return origin


def find_origin(path: Path) -> Origin | None:
    """The inputs of the run in a folder; None if there is no run, or it does not record them. Raises InputError."""
    # A first start that failed leaves no state.
    if not (path / "run.json").is_file() or not (path / "state.json").exists():
        return None
    return load_origin(path) if (path / _ORIGIN_FILE).exists() else None


@contextmanager
def opened_run(path: Path) -> Iterator[EvolutionRunFolder]:
    """Open and lock the run in a folder. Raises InputError if there is none, or a daemon uses it."""
    _require_run(path)
    with closing(EvolutionRunFolder(path)) as folder:
        yield folder


def lineage(path: Path) -> tuple[Edit, ...]:
    """All edits of the accepted moves of the run in a folder, in order. Raises InputError if there are none."""
    with opened_run(path) as folder:
        state = folder.load()
        moves = () if state is None else state.lineage
        edits = tuple(edit for number, move in enumerate(moves, start=1) for edit in folder.edits(number, move))
    if not edits:
        raise InputError(f"the run in {path} has accepted no move", remedy="give a run with accepted moves")
    return edits


def _require_run(path: Path) -> None:
    # EvolutionRunFolder would create the folder.
    if not (path / "run.json").is_file():
        raise InputError(f"{path_text(path)} is not the folder of a run", remedy="give the folder that evolve printed")
