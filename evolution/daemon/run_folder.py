"""The folder of a run: everything that it is, so that it goes on after any interruption as if there had been none.

run.json         what the run is: model, data, strategy, seed, settings that decide
state.json       where it is; replaced at the end of each generation, the commit of all that happened in it
moves/           the edits of accepted moves, `000001.move` and so on, written before the state that names them
model-000016.gguf   the weights after so many of them
events.jsonl     what happened
lock             held by the daemon that works here
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution.daemon import run_state
from evolution.daemon.run_state import Move, RunState
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.weights.edits import Edit, LowRank, pack, unpack

_FORMAT = "vector_boot.run"
_VERSION = 1
_OTHER_FOLDER = "give a folder of its own to another run, or the settings of this one"


class EvolutionRunFolder:
    """A run's folder, locked for as long as it is open."""

    def __init__(self, path: Path) -> None:
        """Make the folder if need be and lock it. Raises InputError when another daemon has it, or that fails."""
        self.path = path
        try:
            (path / "moves").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            what = f"{path} cannot be the folder of a run ({error.strerror or error})"
            raise InputError(what, remedy="choose another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InputError(f"another daemon works in {path}", remedy="stop it, or give another folder") from error

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    @property
    def events(self) -> Path:
        """Where events are logged."""
        return self.path / "events.jsonl"

    def snapshot(self, moves: int) -> Path:
        """The weights after so many moves, if they were written down."""
        return self.path / f"model-{moves:06}.gguf"

    def forget_snapshots(self, *, but: int) -> None:
        """Remove all snapshots but one."""
        for path in self.path.glob("model-*.gguf"):
            if path != self.snapshot(but):
                path.unlink(missing_ok=True)

    def identify(self, settings: Mapping[str, Any]) -> str:
        """The run's id (16 hex): of a new run with these settings, or of the one that is here, if it has the same.

        Raises InputError that names the first setting that differs, or for what is no run.
        """
        path = self.path / "run.json"
        wanted = json.loads(json.dumps(settings))
        if not path.exists() or not self._state.exists():  # a first start that failed has made nothing to go on with
            document = {"format": _FORMAT, "version": _VERSION, "run": secrets.token_hex(8), "settings": wanted}
            with atomic_write(path) as file:
                file.write(json.dumps(document, indent=1).encode())
            return str(document["run"])
        document = _read_json(path)
        if document.get("format") != _FORMAT or document.get("version") != _VERSION:
            raise InputError(f"{path} is not of a run that this version can go on with", remedy=_OTHER_FOLDER)
        recorded, run = document.get("settings"), document.get("run")
        if not isinstance(recorded, dict) or not isinstance(run, str):
            raise InputError(f"{path} does not say what run it is of", remedy=_OTHER_FOLDER)
        if difference := _difference(recorded, wanted):
            raise InputError(f"the run in {self.path} has {difference}", remedy=_OTHER_FOLDER)
        return run

    def load(self) -> RunState | None:
        """Where the run is; None: at its beginning. Raises InputError for a state that is none."""
        try:
            data = self._state.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            what = f"{self._state} cannot be read ({error.strerror or error})"
            raise InputError(what, remedy="give the folder of a run") from error
        return run_state.load(data)

    def save(self, state: RunState) -> None:
        """Make this where the run is, for good."""
        with atomic_write(self._state) as file:
            file.write(run_state.dump(state))

    def save_edits(self, number: int, edits: Sequence[Edit]) -> str:
        """Write the edits of the move of this number, counted from 1; their SHA-256 (hex)."""
        members, blob = pack(edits)
        shapes = {edit.tensor: [len(edit.b), len(edit.a)] for edit in edits if isinstance(edit, LowRank)}
        data = json.dumps({"shapes": shapes, "edits": members}).encode() + b"\n" + blob
        with atomic_write(self._move(number)) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def edits(self, number: int, move: Move) -> tuple[Edit, ...]:
        """The edits of a move of the lineage, counted from 1. Raises InputError when they are not what was written."""
        path = self._move(number)
        try:
            data = path.read_bytes()
        except OSError as error:
            what = f"the edits of move {number} cannot be read from {path} ({error.strerror or error})"
            raise InputError(what, remedy="take the run folder from a backup") from error
        if hashlib.sha256(data).hexdigest() != move.sha256:
            raise InputError(f"{path} has been changed", remedy="take the run folder from a backup")
        line, _, blob = data.partition(b"\n")
        written = json.loads(line)
        return unpack(written["edits"], blob, shapes=written["shapes"])

    def close(self) -> None:
        """Give the folder free. Closing twice is fine."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _move(self, number: int) -> Path:
        return self.path / "moves" / f"{number:06}.move"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not say what run it is of ({error})", remedy=_OTHER_FOLDER) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} does not say what run it is of", remedy=_OTHER_FOLDER)
    return document


def _difference(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting that is another one, as a sentence's end."""
    for name in [*recorded, *(name for name in wanted if name not in recorded)]:
        ours, theirs = recorded.get(name), wanted.get(name)
        if ours != theirs:
            return f"the {name} {_shown(ours)}, not {_shown(theirs)}"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}...{text[-1]}"
