"""How two GGUF files differ, tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import PROTECTED
from evolution.surgeon.reports import FileDifference, TensorDifference
from evolution.surgeon.values import is_readable, pieces, stored, values
from vboot.weights.arithmetic import TensorData
from vboot.weights.storage_types import Bytes, block_of


def difference(first: GGUFFile, other: GGUFFile) -> FileDifference:
    """The differences: first tensors that differ in type, shape or presence, then the others by relative norm."""
    names = [*first.tensors, *(name for name in other.tensors if name not in first.tensors)]
    found = [_compare(name, first.tensors.get(name), other.tensors.get(name)) for name in names]
    differing = sorted((each for each in found if each is not None), key=_rank, reverse=True)
    ours, theirs = ({entry.key: entry.value for entry in file.layout.metadata} for file in (first, other))
    return FileDifference(
        str(first.path),
        str(other.path),
        (first.model_sha256(), other.model_sha256()),
        tuple(differing),
        len(found) - len(differing),
        tuple(sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))),
    )


def count_changed(kind: str, before: Bytes, after: Bytes) -> tuple[int, int]:
    """The numbers of bytes and of blocks that differ between two tensors of type `kind` and equal length."""
    size = block_of(kind).bytes
    changed_bytes = changed_blocks = 0
    for old, new in zip(pieces(kind, before), pieces(kind, after), strict=True):
        unequal = old != new
        changed_bytes += int(np.count_nonzero(unequal))
        changed_blocks += int(np.count_nonzero(unequal.reshape(-1, size).any(axis=1)))
    return changed_bytes, changed_blocks


def _compare(name: str, ours: TensorData | None, theirs: TensorData | None) -> TensorDifference | None:
    counts: dict[str, Any] = dict.fromkeys(("bytes", "changed_bytes", "blocks", "changed_blocks"))
    norms: dict[str, Any] = dict.fromkeys(("l2", "max", "relative"))
    if ours is not None and theirs is not None and ours.shape == theirs.shape:
        if ours.type == theirs.type:
            if ours.data == theirs.data:
                return None
            changed_bytes, changed_blocks = count_changed(ours.type, stored(ours), stored(theirs))
            size = len(ours.data)
            blocks = size // block_of(ours.type).bytes
            counts = {"bytes": size, "changed_bytes": changed_bytes, "blocks": blocks, "changed_blocks": changed_blocks}
        if is_readable(ours.type) and is_readable(theirs.type):
            norms = _norms(ours, theirs)
    types = (ours.type if ours else None, theirs.type if theirs else None)
    shapes = (ours.shape if ours else None, theirs.shape if theirs else None)
    return TensorDifference(name, types, shapes, **counts, **norms, protected=name in PROTECTED)


def _norms(ours: TensorData, theirs: TensorData) -> dict[str, float | None]:
    squares = norm = greatest = 0.0
    with np.errstate(all="ignore"):  # norms that are not finite become None
        for x, y in zip(values(ours), values(theirs), strict=True):
            delta = y - x
            squares += float(np.square(delta).sum())
            norm += float(np.square(x).sum())
            greatest = float(np.maximum(greatest, np.abs(delta).max()))
    relative = math.sqrt(squares / norm) if norm else math.inf
    found = {"l2": math.sqrt(squares), "max": greatest, "relative": relative}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _rank(each: TensorDifference) -> tuple[bool, float]:
    is_other = len(set(each.types)) > 1 or len(set(each.shapes)) > 1
    return is_other, math.inf if each.relative is None else each.relative
