"""Weighted means of related checkpoints. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evolution.surgeon.machine_tensors import PROTECTED, SLOTS
from evolution.surgeon.operation import Change
from evolution.surgeon.values import pieces, stored
from vboot.errors import InputError
from vboot.protocol.tables import Code
from vboot.weights.arithmetic import EditError, TensorData
from vboot.weights.storage_types import FLOAT_STORAGE, Bytes, block_of, decode, encode

_SUM_TOLERANCE = 1e-6


def merge(files: Sequence[Mapping[str, TensorData]], factors: Sequence[float]) -> Iterator[Change]:
    """The sum of the files' tensors, each multiplied by its file's factor, in the types of the first file.

    The files have the same tensors with the same shapes, apart from the machine's own, which stay unchanged.
    Raises InputError for factors that do not fit, EditError for a tensor whose type has no arithmetic here.
    """
    if len(factors) != len(files):
        raise InputError(
            f"expected {len(files)} weights, one for each file, got {len(factors)}", remedy="give one for each file"
        )
    if not all(map(math.isfinite, factors)) or abs(sum(factors) - 1) > _SUM_TOLERANCE:
        shown = ", ".join(f"{factor:g}" for factor in factors)
        raise InputError(
            f"the weights {shown} do not add up to 1",
            remedy="give weights of sum 1, which keep the scale of the tensors",
        )
    first = files[0]
    names = [name for name in first if name not in PROTECTED | SLOTS and any(_differ(first, f, name) for f in files)]
    for name in names:
        if unfit := [file[name].type for file in files if file[name].type not in FLOAT_STORAGE]:
            raise EditError(Code.UNSUPPORTED_EDIT, f"{name!r} is of type {unfit[0]}, which cannot be merged")
    return (Change(name, _sum([file[name] for file in files], factors)) for name in names)


def _differ(first: Mapping[str, TensorData], other: Mapping[str, TensorData], name: str) -> bool:
    return first[name].type != other[name].type or first[name].data != other[name].data


def _sum(tensors: Sequence[TensorData], factors: Sequence[float]) -> Bytes:
    """In f32, file after file, product and sum rounded separately. Blocks that are equal in all files stay."""
    kind = tensors[0].type
    same_types = all(tensor.type == kind for tensor in tensors)
    merged = []
    for parts in zip(*(pieces(tensor.type, stored(tensor)) for tensor in tensors), strict=True):
        with np.errstate(all="ignore"):  # values that are not finite are found in the stored result
            values = (decode(tensor.type, part) for tensor, part in zip(tensors, parts, strict=True))
            terms = (np.float32(factor) * value for factor, value in zip(factors, values, strict=True))
            piece = encode(kind, functools.reduce(np.add, terms))
        if same_types:
            blocks = [part.reshape(-1, block_of(kind).bytes) for part in parts]
            same = np.logical_and.reduce([(blocks[0] == other).all(axis=1) for other in blocks[1:]])
            piece = np.where(same[:, None], blocks[0], piece.reshape(blocks[0].shape)).reshape(-1)
        merged.append(piece)
    return np.concatenate(merged)
