"""The GGUF format: its constants, and a reader that finds the metadata and tensors of a file without decoding them.

The reader of the gguf package makes several objects for every token of a vocabulary (seconds, and hundreds of megabytes
for a large one) and may hang on a malformed file. This reader skips over arrays and ends on any input. It does not
decide whether a file is valid: `vector_boot check` does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from vboot.errors import InputError

MAGIC = b"GGUF"
ALIGNMENT_KEY = "general.alignment"
LAYOUT_KEY = "vector_boot.layout"
"""Marks a composed file: a model with the machine's tensors."""
SOURCE_ALIGNMENT_KEY = "vector_boot.source_alignment"
"""In a composed file: the value of `general.alignment` in its model, where the model states one."""
MUTATION_KEY_KEY = "vector_boot.mutation_key"
"""The public key that changes of a machine's weights must be signed with, as hex digits."""
_DEFAULT_ALIGNMENT = 32
_VERSIONS = (2, 3)


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


# Elements and bytes per block of every type. The gguf package is wrong about Q8_1 (9), which has two f16 and not two
# f32, and does not know Q2_0 (42); both are as in ggml-common.h.
_BLOCKS: dict[int, tuple[int, int]] = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} | {
    9: (32, 36),
    42: (64, 18),
}
_TYPE_NAMES: dict[int, str] = {kind.value: kind.name for kind in GGMLQuantizationType} | {42: "Q2_0"}
_SCALARS = {
    ValueType.U8: struct.Struct("<B"),
    ValueType.I8: struct.Struct("<b"),
    ValueType.U16: struct.Struct("<H"),
    ValueType.I16: struct.Struct("<h"),
    ValueType.U32: struct.Struct("<I"),
    ValueType.I32: struct.Struct("<i"),
    ValueType.F32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.U64: struct.Struct("<Q"),
    ValueType.I64: struct.Struct("<q"),
    ValueType.F64: struct.Struct("<d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class Metadata:
    """One metadata entry. `value`: the u32 value type and the packed value, as in the file."""

    key: str
    value: bytes


@dataclass(frozen=True)
class TensorEntry:
    """The position of a tensor in a file.

    `dims`: fastest dimension first. `type`: the number of its ggml type. `offset`: in bytes from the start of the file.
    `size`: in bytes, without padding. `type_at`: where the header holds its type (u32), followed by its offset in the
    data section (u64).
    """

    name: str
    dims: tuple[int, ...]
    type: int
    offset: int
    size: int
    type_at: int


@dataclass(frozen=True)
class Layout:
    """The metadata and tensors of a file, in its order. `data_offset`: where the padded header ends, in bytes."""

    metadata: tuple[Metadata, ...]
    tensors: tuple[TensorEntry, ...]
    alignment: int
    data_offset: int


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


def type_name(kind: int) -> str:
    """The ggml name of the type with this number. Raises KeyError for an unknown one."""
    return _TYPE_NAMES[kind]


def pad_to(size: int, alignment: int) -> int:
    """The number of bytes from `size` to the next multiple of `alignment`."""
    return -size % alignment


def read_layout(data: memoryview, *, name: str) -> Layout:
    """Read the layout of a GGUF file (version 2 or 3, little-endian) from its bytes `data`.

    Raises InputError, which calls the file `name`, if it is not a GGUF file or a part of it lies outside the file.
    """
    try:
        return _read_layout(data)
    except (struct.error, OverflowError):
        why = "it ends inside its header"
    except ValueError as error:
        why = str(error)
    raise InputError(f"{name} is not a usable GGUF file: {why}", remedy="run `vector_boot check` on it")


def scalar(metadata: Iterable[Metadata], key: str) -> int | float | bool | str | None:
    """The value of the entry `key`: a number, a boolean or a string; None if it is absent or an array."""
    for entry in metadata:
        if entry.key == key:
            kind = ValueType(_U32.unpack_from(entry.value)[0])
            if kind == ValueType.STRING:
                return entry.value[12:].decode("utf-8", "replace")
            return _SCALARS[kind].unpack_from(entry.value, 4)[0] if kind in _SCALARS else None
    return None


def _read_layout(data: memoryview) -> Layout:
    magic, version, tensor_count, entry_count = struct.unpack_from("<4sIQQ", data)
    if magic != MAGIC:
        raise ValueError("it does not begin with GGUF")
    if version not in _VERSIONS:
        raise ValueError(f"version {version} is not 2 or 3")
    at = 24
    entries = []
    for _ in range(entry_count):
        entry, at = _entry(data, at)
        entries.append(entry)
    infos = []
    for _ in range(tensor_count):
        info, at = _tensor_info(data, at)
        infos.append(info)
    alignment = scalar(entries, ALIGNMENT_KEY)
    if alignment is None:
        alignment = _DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{ALIGNMENT_KEY} is {alignment}")
    start = at + pad_to(at, alignment)
    tensors = [replace(info, offset=start + info.offset) for info in infos]
    for tensor in tensors:
        if tensor.offset + tensor.size > len(data):
            raise ValueError(f"tensor {tensor.name} leaves the file")
    return Layout(tuple(entries), tuple(tensors), alignment, start)


def _entry(data: memoryview, at: int) -> tuple[Metadata, int]:
    key, at = _string(data, at)
    kind = ValueType(_U32.unpack_from(data, at)[0])
    end = _value_end(data, at + 4, kind)
    if end > len(data):
        raise ValueError(f"the value of {key} leaves the file")
    return Metadata(key, bytes(data[at:end])), end


def _value_end(data: memoryview, at: int, kind: ValueType) -> int:
    if kind == ValueType.STRING:
        return at + 8 + _length(data, at)
    if kind != ValueType.ARRAY:
        return at + _SCALARS[kind].size
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element == ValueType.ARRAY:
        raise ValueError("it has an array of arrays")
    if element != ValueType.STRING:
        return at + _SCALARS[ValueType(element)].size * int(count)
    unpack = _U64.unpack_from
    for _ in range(count):
        at += 8 + unpack(data, at)[0]
    return at


def _tensor_info(data: memoryview, at: int) -> tuple[TensorEntry, int]:
    """The entry as stored: its offset is relative to the data section."""
    name, at = _string(data, at)
    count = _U32.unpack_from(data, at)[0]
    if not 1 <= count <= 4:
        raise ValueError(f"tensor {name} has {count} dimensions")
    fields: tuple[Any, ...] = struct.unpack_from(f"<{count}QIQ", data, at + 4)
    *dims, kind, offset = fields
    type_at = at + 4 + 8 * count
    return TensorEntry(name, tuple(dims), kind, offset, tensor_bytes(kind, tuple(dims)), type_at), type_at + 12


def _string(data: memoryview, at: int) -> tuple[str, int]:
    start = at + 8
    end = start + _length(data, at)
    if end > len(data):
        raise ValueError("a name leaves the file")
    return bytes(data[start:end]).decode(), end


def _length(data: memoryview, at: int) -> int:
    return int(_U64.unpack_from(data, at)[0])
