"""Numbers of the GGUF format that its reader and its writer share."""

from __future__ import annotations

import math
from enum import IntEnum

from gguf.constants import GGML_QUANT_SIZES

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32


class ValueType(IntEnum):
    """Types of metadata values."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


class TensorType(IntEnum):
    """The tensor types that are made here; any other known type is copied by its number."""

    F32 = 0
    F16 = 1
    Q8_0 = 8
    I8 = 24
    I32 = 26


# Elements and bytes per block of every type. The gguf package has Q8_1 (9) wrong, as two f32 in place of two f16, and
# does not know Q2_0 (42); both by ggml-common.h.
_BLOCKS: dict[int, tuple[int, int]] = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} | {
    9: (32, 36),
    42: (64, 18),
}


def tensor_bytes(kind: int, dims: tuple[int, ...]) -> int:
    """Size in bytes of a tensor of type number `kind`; dims[0] is the row length.

    Raises ValueError for an unknown type or rows that are not whole blocks.
    """
    if kind not in _BLOCKS:
        raise ValueError(f"unknown tensor type {kind}")
    elements, size = _BLOCKS[kind]
    if dims[0] % elements:
        raise ValueError(f"rows of {dims[0]} are not whole blocks of {elements}")
    return math.prod(dims) // elements * size


def pad_to(size: int, alignment: int) -> int:
    """The number of bytes from `size` to the next multiple of `alignment`."""
    return -size % alignment
