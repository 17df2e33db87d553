"""Crossover of two related checkpoints: each tensor, or each row, is taken from one of them. Pure."""

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
"""The unit that is taken from one file as a whole."""


def crossover(
    first: Mapping[str, TensorData], other: Mapping[str, TensorData], *, seed: str, unit: Unit, share: float
) -> Iterator[Change]:
    """The first file's tensors, with about a `share` of tensors or rows (`unit`) from the other, in the first's types.

    `seed` (16 hex) selects them: word i of the noise of seeded edits decides on row i of a tensor, word 0 on a whole
    tensor. Evolved programs take part if both files have the slot. Raises InputError, EditError.
    """
    if not SEED.fullmatch(seed):
        raise InputError(f"expected a seed of 16 lower-case hex digits, got {seed!r:.40}", remedy="give such a seed")
    if not 0 <= share <= 1:
        raise InputError(f"expected a share from 0 to 1, got {share:g}", remedy="give a number in this range")
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
