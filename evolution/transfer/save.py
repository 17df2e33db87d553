"""Writes the weights of a running machine as a plain GGUF file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.machine_tensors import EMPTY_SLOT_SHA256, SLOTS, model_sha256
from evolution.surgeon.reports import ExportReport
from evolution.transfer.live import Progress, changeable_slots, live_digests, model_tensors, require_same_tensors
from evolution.transfer.snapshot import LiveWeights
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.text import path_text, printable


@dataclass(frozen=True)
class SaveReport:
    """A file with the weights of `generation`: how it was made from the base, and how many bytes came from the machine.

    `fetched`: tensors that differ from the base. `lost_kernels`: slots of the machine that hold an evolved program,
    which a plain model cannot.
    """

    generation: int
    fetched: int
    read_bytes: int
    lost_kernels: tuple[str, ...]
    file: ExportReport


def save(
    machine: MachineClient, base: GGUFSurgeon, output: Path, *, generation: int | None = None, progress: Progress
) -> SaveReport:
    """Write the weights to `output`, with the keys of the base: what `GGUFSurgeon.export` would make of them.

    `generation`: an older one that is kept (None: the current one). The file is complete or not there, and its digest
    is the machine's. Raises InputError if the base is not the model that the machine was started with; MachineError if
    the weights change all the time; RequestRefusedError.
    """
    infos = machine.tensors()
    theirs = model_tensors(infos)
    ours = model_tensors(list(base.tensors().values()))
    require_same_tensors(theirs, ours, path_text(base.path))
    slots = changeable_slots(infos)
    _require_base(machine, base, list(theirs))

    def is_here(name: str, sha256: str) -> bool:
        return base.sha256(name) == sha256

    with LiveWeights(machine, theirs, is_here, also=slots, folder=output.parent, progress=progress) as live:
        taken = live.take(generation)
        contents = {name: functools.partial(taken.read, name) for name in taken.fetched}
        expected = {name: taken.sha256[name] for name in theirs} | dict.fromkeys(SLOTS, EMPTY_SLOT_SHA256)
        report = base.export(output, contents, expected_model=model_sha256(expected))
    lost = tuple(name for name in slots if taken.sha256[name] != EMPTY_SLOT_SHA256)
    return SaveReport(taken.generation, len(contents), taken.read_bytes, lost, report)


def _require_base(machine: MachineClient, base: GGUFSurgeon, names: Sequence[str]) -> None:
    """Raise InputError unless the base has the weights of generation 0: else its keys may be another model's."""
    first = live_digests(machine, names, generation=0)
    assert first is not None, "generation 0 never changes"
    wrong = [name for name in names if first.sha256[name] != base.sha256(name)]
    if wrong:
        what = (
            f"{path_text(base.path)} is not the model that the machine was started with: {printable(wrong[0])} differs"
        )
        raise InputError(what, remedy="name that model with --model")
