"""Conversion of tensors to another storage type. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np

from evolution.surgeon.machine_tensors import PROTECTED
from evolution.surgeon.operation import Change, Operation
from evolution.surgeon.values import pieces, stored
from vboot.errors import InputError
from vboot.protocol.tables import Code
from vboot.weights.arithmetic import EditError, TensorData
from vboot.weights.storage_types import FLOAT_STORAGE, Bytes, block_of, decode, encode


def requantise(tensors: Mapping[str, TensorData], types: Mapping[str, str]) -> Operation:
    """Convert tensors, by name or pattern, to F32, F16, BF16 or Q8_0; if two patterns match, the later counts.

    A pattern matches matrices only: vectors, such as norms and biases, are small but sensitive, so they keep their
    types unless they are named. Raises InputError for another type, EditError for tensors that cannot be converted.
    """
    wanted: dict[str, str] = {}
    for pattern, kind in types.items():
        if kind not in FLOAT_STORAGE:
            known = ", ".join(sorted(FLOAT_STORAGE))
            raise InputError(f"{pattern!r} cannot be stored as {kind!r}", remedy=f"give one of {known}")
        wanted |= dict.fromkeys(_matches(pattern, tensors), kind)
    changed = {name: kind for name, kind in wanted.items() if kind != tensors[name].type}
    for name, kind in changed.items():
        _check(tensors[name], kind)
    return Operation(_changes(tensors, changed), changed)


def convert(tensor: TensorData, kind: str) -> Bytes:
    """The bytes of a tensor in another type of FLOAT_STORAGE; values outside its range become infinite."""
    return np.concatenate([encode(kind, decode(tensor.type, piece)) for piece in pieces(tensor.type, stored(tensor))])


def _changes(tensors: Mapping[str, TensorData], types: Mapping[str, str]) -> Iterator[Change]:
    return (Change(name, convert(tensors[name], kind)) for name, kind in types.items())


def _matches(pattern: str, tensors: Mapping[str, TensorData]) -> list[str]:
    if pattern in PROTECTED:
        raise EditError(Code.PROTECTED_TENSOR, f"{pattern!r} is protected")
    if pattern in tensors:
        return [pattern]
    matrices = (name for name, tensor in tensors.items() if len(tensor.shape) > 1 and name not in PROTECTED)
    found = [name for name in matrices if fnmatchcase(name, pattern)]
    if not found:
        raise EditError(Code.UNKNOWN_TENSOR, f"no matrix matches {pattern!r}")
    return found


def _check(tensor: TensorData, kind: str) -> None:
    if tensor.type not in FLOAT_STORAGE:
        raise EditError(Code.UNSUPPORTED_EDIT, f"{tensor.name!r} is of type {tensor.type}, which cannot be converted")
    if tensor.shape[0] % (block := block_of(kind).elements):
        text = (
            f"rows of {tensor.name!r} have {tensor.shape[0]} elements, not a multiple of {block}, the block of {kind}"
        )
        raise EditError(Code.MISMATCH, text)
