"""The values of tensors of every type that can be decoded, a piece at a time. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vboot.weights.arithmetic import TensorData
from vboot.weights.storage_types import Bytes, block_of, decode_any

_PIECE = 1 << 18
"""Elements handled at a time: whole blocks of every type, in little memory."""


def stored(tensor: TensorData) -> Bytes:
    """The stored bytes of a tensor, uint8 (n,)."""
    return np.frombuffer(tensor.data, np.uint8)


def pieces(kind: str, data: Bytes) -> Iterator[Bytes]:
    """Bytes of a type in pieces of _PIECE elements, the same number for every type; the last piece may have fewer."""
    block = block_of(kind)
    step = _PIECE // block.elements * block.bytes
    return (data[start : start + step] for start in range(0, len(data), step))


def values(tensor: TensorData) -> Iterator[NDArray[np.float64]]:
    """All elements of a tensor of a type that `is_readable`, in the pieces of `pieces`."""
    return (_decoded(tensor.type, piece) for piece in pieces(tensor.type, stored(tensor)))


@functools.cache
def is_readable(kind: str) -> bool:
    """Whether `values` can decode tensors of a ggml type."""
    return decode_any(kind, np.zeros(block_of(kind).bytes, np.uint8)) is not None


def _decoded(kind: str, data: Bytes) -> NDArray[np.float64]:
    decoded = decode_any(kind, data)
    assert decoded is not None, "the caller has asked `is_readable`"
    return decoded.astype(np.float64)
