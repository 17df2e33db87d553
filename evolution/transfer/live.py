"""The tensors of a running machine beside those of a file: the same ones, their digests, all of one generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evolution.surgeon.machine_tensors import MACHINE_TENSORS, PROTECTED
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.protocol.tables import NAMES_LIMIT
from vboot.text import printable

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the current phase, bytes done and bytes in all (0: not known)."""

_ROUNDS = 5


@dataclass(frozen=True)
class LiveDigests:
    """SHA-256 (hex) of tensors by name, all of one generation."""

    generation: int
    sha256: Mapping[str, str]


def model_tensors(infos: Sequence[TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors that are the model's own, by name."""
    return {info.name: info for info in infos if info.name not in MACHINE_TENSORS}


def require_same_tensors(machine: Mapping[str, TensorInfo], file: Mapping[str, TensorInfo], name: str) -> None:
    """Raise InputError that names the first difference in names, types or shapes; `name` is that of the file."""
    for tensor, ours in machine.items():
        theirs = file.get(tensor)
        if theirs is None:
            what = f"{name} has no tensor {printable(tensor)}, which the machine has"
        elif (ours.type, ours.shape) != (theirs.type, theirs.shape):
            what = (
                f"{printable(tensor)} is {ours.type} {list(ours.shape)} in the machine, "
                f"{theirs.type} {list(theirs.shape)} in {name}"
            )
        else:
            continue
        raise InputError(what, remedy="give a file of the model that the machine runs")
    for tensor in file:
        if tensor not in machine:
            what = f"{name} has a tensor {printable(tensor)}, which the machine lacks"
            raise InputError(what, remedy="give a file of the model that the machine runs")


def live_digests(machine: MachineClient, names: Sequence[str], generation: int | None = None) -> LiveDigests | None:
    """The digests of these tensors, also of more than one request takes; None if the weights keep changing.

    `generation`: an older one (None: the current one).
    """
    for _ in range(_ROUNDS):
        found = [
            machine.digest(names[start : start + NAMES_LIMIT], generation=generation)
            for start in range(0, max(1, len(names)), NAMES_LIMIT)
        ]
        if len({each.generation for each in found}) == 1:
            merged = {name: digest for each in found for name, digest in each.sha256.items()}
            return LiveDigests(found[0].generation, merged)
    return None


def changeable_slots(infos: Sequence[TensorInfo]) -> list[str]:
    """The machine's own tensors that a mutation can change: the slots for evolved programs."""
    return [info.name for info in infos if info.name in MACHINE_TENSORS - PROTECTED]
