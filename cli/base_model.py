"""The model file that a running machine was booted with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from cli.machines import RUN_FILE, newest_running
from vboot.errors import InputError
from vboot.text import parse_path, path_text

_CONTAINER = ".rts"
_COMPOSED = "vectorland.gguf"
_KEPT = "booted.gguf"


def settle_machine(arguments: argparse.Namespace) -> None:
    """Name the machine of `arguments` if none is named, so that all that follows is about the same one."""
    if arguments.machine is None:
        with newest_running() as machine:
            arguments.machine = machine.run


def booted_model(machine: Path) -> Path | None:
    """The composed model that a run folder's machine was booted from; None: it is not known.

    It is the file beside the RTS file, unless that was replaced since: then the run folder's link to the earlier one.
    """
    try:
        kept = machine / _KEPT
        is_kept = kept.is_file()
        record = json.loads((machine / RUN_FILE).read_bytes())
        inputs = [parse_path(each["path"]) for each in record["inputs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    models = [place.with_name(_COMPOSED) for place in inputs if place.suffix == _CONTAINER]
    beside = next((model for model in models if model.is_file()), None)
    return kept if is_kept and (beside is None or not beside.samefile(kept)) else beside


def require_model(given: Path | None, machine: Path, *, find: Callable[[Path], Path | None] = booted_model) -> Path:
    """The model file of a machine: the one that was given, or else the one that it was booted with.

    Raises InputError if neither is there.
    """
    found = given or find(machine)
    if found is None:
        what = f"the model that the machine at {path_text(machine)} runs is not known here"
        raise InputError(what, remedy="name its file with --model, for example build/vectorland.gguf")
    return found
