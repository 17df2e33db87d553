"""Children of two related checkpoints: whole tensors, or rows of them, of one or of the other. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import numpy as np

from evolution.surgeon.machine_tensors import PROTECTED
from evolution.surgeon.operation import Change
from evolution.surgeon.requantise import convert
from evolution.surgeon.values import stored
from vboot.errors import InputError
from vboot.protocol.tables import Code
from vboot.weights import noise
from vboot.weights.arithmetic import EditError, TensorData
from vboot.weights.edits import SEED
from vboot.weights.storage_types import FLOAT_STORAGE, Bytes

Unit: TypeAlias = Literal["tensor", "row"]
"""What is inherited as a whole."""


def crossover(
    first: Mapping[str, TensorData], other: Mapping[str, TensorData], *, seed: str, unit: Unit, share: float
) -> Iterator[Change]:
    """The first's tensors with about a `share` of tensors or rows (`unit`) from the other, in the first's types.

    Which ones, `seed` (16 hex) decides: word i of the noise of seeded edits selects row i of a tensor, word 0 a whole
    tensor. Programs are inherited too, if both files hold the slot. Raises InputError, EditError.
    """
    if not SEED.fullmatch(seed):
        raise InputError(f"{seed!r:.40} is not a seed", remedy="give 16 lower-case hex digits")
    if not 0 <= share <= 1:
        raise InputError(f"{share:g} is not a share", remedy="give a number from 0 to 1")
    names = [name for name in first if name in other and name not in PROTECTED]
    for name in names:
        kinds = {first[name].type, other[name].type}
        if len(kinds) > 1 and not kinds <= FLOAT_STORAGE:
            raise EditError(
                Code.UNSUPPORTED_EDIT, f"{name!r} is {' in one file and '.join(sorted(kinds))} in the other"
            )
    return (Change(name, _cross(first[name], other[name], seed, unit, share)) for name in names)


def _cross(ours: TensorData, theirs: TensorData, seed: str, unit: Unit, share: float) -> Bytes:
    rows = math.prod(ours.shape[1:]) if unit == "row" else 1
    selected = noise.selected(noise.words(noise.key(seed, ours.name), 0, rows), share)
    data = stored(ours)
    if not selected.any():
        return data
    other = stored(theirs) if theirs.type == ours.type else convert(theirs, ours.type)
    return np.where(selected[:, None], other.reshape(rows, -1), data.reshape(rows, -1)).reshape(-1)
