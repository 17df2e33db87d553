"""The folder of a run. It holds everything that is needed to resume the run after any interruption, but its model.

run.json            identifies the run: model, data, strategy, seed, settings that decide
state.json          the state; replaced at the end of each generation, which commits the generation
moves/              the edits of accepted moves, `000001.move` and so on, written before the state names them
model-000016.gguf   a snapshot of the weights after 16 moves
events.jsonl        the log of events
lock                locked by the daemon that uses the folder

`vboot evolve` adds the pairs of the run (`pairs.jsonl`), where they came from (`origin.json`), plots and the report.
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
_OTHER_FOLDER = "use another folder for another run, or the settings of this one"


class EvolutionRunFolder:
    """A run's folder, locked while it is open."""

    def __init__(self, path: Path) -> None:
        """Create the folder if necessary and lock it. Raises InputError if another daemon uses it, or that fails."""
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
        """The log of events."""
        return self.path / "events.jsonl"

    def snapshot(self, moves: int) -> Path:
        """The file of the weights after this many moves; it may not exist."""
        return self.path / f"model-{moves:06}.gguf"

    def forget_snapshots(self, *, but: int) -> None:
        """Remove all snapshots except one."""
        for path in self.path.glob("model-*.gguf"):
            if path != self.snapshot(but):
                path.unlink(missing_ok=True)

    def identify(self, settings: Mapping[str, Any]) -> str:
        """The run's id (16 hex): that of a new run with these settings, or of the existing run if it has the same.

        Raises InputError that names the first setting that differs, or if `run.json` is not valid.
        """
        path = self.path / "run.json"
        wanted = json.loads(json.dumps(settings))
        if not path.exists() or not self._state.exists():  # a first start that failed leaves no state
            document = {"format": _FORMAT, "version": _VERSION, "run": secrets.token_hex(8), "settings": wanted}
            with atomic_write(path) as file:
                file.write(json.dumps(document, indent=1).encode())
            return str(document["run"])
        document = _read_json(path)
        if document.get("format") != _FORMAT or document.get("version") != _VERSION:
            raise InputError(f"{path} has a format that this version does not support", remedy=_OTHER_FOLDER)
        recorded, run = document.get("settings"), document.get("run")
        if not isinstance(recorded, dict) or not isinstance(run, str):
            raise InputError(f"{path} does not say what run it is of", remedy=_OTHER_FOLDER)
        if (difference := _difference(recorded, wanted)) is not None:
            what, remedy = difference
            raise InputError(f"the run in {self.path} {what}", remedy=f"{remedy}, or begin a new run with --folder DIR")
        return run

    def load(self) -> RunState | None:
        """The saved state; None before the first one. Raises InputError if it is damaged."""
        try:
            data = self._state.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            what = f"{self._state} cannot be read ({error.strerror or error})"
            raise InputError(what, remedy="check the folder's permissions") from error
        return run_state.load(data)

    def save(self, state: RunState) -> None:
        """Save the state durably."""
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
        """The edits of the move of this number, from 1. Raises InputError if they are missing or were modified."""
        path = self._move(number)
        try:
            data = path.read_bytes()
        except OSError as error:
            what = f"the edits of move {number} cannot be read from {path} ({error.strerror or error})"
            raise InputError(what, remedy="take the run folder from a backup") from error
        if hashlib.sha256(data).hexdigest() != move.sha256:
            raise InputError(f"{path} has been changed", remedy="restore the run folder from a backup")
        line, _, blob = data.partition(b"\n")
        written = json.loads(line)
        return unpack(written["edits"], blob, shapes=written["shapes"])

    def close(self) -> None:
        """Unlock the folder. Closing twice is allowed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _move(self, number: int) -> Path:
        return self.path / "moves" / f"{number:06}.move"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})", remedy=_OTHER_FOLDER) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} does not say what run it is of", remedy=_OTHER_FOLDER)
    return document


_BY_FILE = {
    "model": ("began with another model", "give the model that it began with (--model FILE)"),
    "data": ("began with other pairs", "give the pairs that it began with (--data)"),
    "fitness": ("began with another batch size, or was scored in another way", "give the same --batch"),
}
"""How to say that a digest differs, and what to do."""
_OPTIONS = {"strategy": "strategy", "seed": "seed", "options": "option", "tiers": "tier", "kernel_every": "kernels"}
"""The option of the command line by which a setting is given."""


def _difference(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first setting that differs, as the end of a sentence, and what to do about it."""
    for name in [*recorded, *(name for name in wanted if name not in recorded)]:
        ours, theirs = recorded.get(name), wanted.get(name)
        if ours == theirs:
            continue
        if name in _BY_FILE:
            what, remedy = _BY_FILE[name]
            return f"{what} ({name} {ours!s:.12}, not {theirs!s:.12})", remedy
        if name in _OPTIONS:
            return f"has the {name} {_shown(ours)}, not {_shown(theirs)}", f"give the same --{_OPTIONS[name]}"
        return f"has the {name} {_shown(ours)}, not {_shown(theirs)}", "use the settings of this run"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}...{text[-1]}"
