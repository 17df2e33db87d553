"""A deterministic GGUF version 3 writer: the same entries and tensors always give the same bytes.

`plan` is pure and lays the file out, `chunks` yields its bytes without holding more than a few megabytes of them.
The alignment is 4096 and the last tensor is padded too, so that no two tensors share a memory page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from image.streams import read_chunks, split_chunks
from vboot.gguf import ALIGNMENT_KEY, MAGIC, Metadata, ValueType, pad_to, tensor_bytes

VERSION = 3
ALIGNMENT = 4096


class TensorType(IntEnum):
    """Numbers of those ggml types that are written here; tensors of other types are copied."""

    F32 = 0
    F16 = 1
    Q8_0 = 8
    I8 = 24
    I32 = 26


@dataclass(frozen=True)
class FileRange:
    """`size` bytes from `offset` of a file open for reading."""

    file: BinaryIO
    offset: int
    size: int


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: `dims` with the row length first, `type` a ggml type number, `source` its bytes as stored."""

    name: str
    dims: tuple[int, ...]
    type: int
    source: bytes | NDArray[Any] | FileRange


@dataclass(frozen=True)
class Model:
    """The contents of a GGUF file to write, in order."""

    metadata: tuple[Metadata, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Plan:
    """A file laid out: `header` is everything before the tensor data, padding included; `size` in bytes."""

    header: bytes
    tensors: tuple[Tensor, ...]
    size: int


def u32(key: str, value: int) -> Metadata:
    """An unsigned 32-bit entry."""
    return Metadata(key, struct.pack("<II", ValueType.U32, value))


def f32(key: str, value: float) -> Metadata:
    """A 32-bit float entry."""
    return Metadata(key, struct.pack("<If", ValueType.F32, value))


def boolean(key: str, value: bool) -> Metadata:
    """A boolean entry, one byte."""
    return Metadata(key, struct.pack("<I?", ValueType.BOOL, value))


def string(key: str, value: str) -> Metadata:
    """A UTF-8 string entry."""
    return Metadata(key, struct.pack("<I", ValueType.STRING) + _packed_string(value))


def string_array(key: str, values: Sequence[str]) -> Metadata:
    """An array of UTF-8 strings."""
    head = struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, len(values))
    return Metadata(key, head + b"".join(map(_packed_string, values)))


def i32_array(key: str, values: Sequence[int]) -> Metadata:
    """An array of signed 32-bit integers."""
    head = struct.pack("<IIQ", ValueType.ARRAY, ValueType.I32, len(values))
    return Metadata(key, head + struct.pack(f"<{len(values)}i", *values))


def with_entry(metadata: Iterable[Metadata], entry: Metadata) -> tuple[Metadata, ...]:
    """The same entries with `entry` in place of the one with its key, or at the end."""
    entries = tuple(entry if old.key == entry.key else old for old in metadata)
    return entries if entry in entries else (*entries, entry)


def plan(model: Model) -> Plan:
    """Lay out the file of a model, with `general.alignment` set to 4096.

    Raises ValueError when a tensor's source is not as long as its type and dims say.
    """
    entries = with_entry(model.metadata, u32(ALIGNMENT_KEY, ALIGNMENT))
    parts = [struct.pack("<4sIQQ", MAGIC, VERSION, len(model.tensors), len(entries))]
    parts += [_packed_string(entry.key) + entry.value for entry in entries]
    offset = 0
    for tensor in model.tensors:
        size = _source_size(tensor)
        if size != tensor_bytes(tensor.type, tensor.dims):
            raise ValueError(f"tensor {tensor.name}: {size} bytes do not fit type {tensor.type} and {tensor.dims}")
        n = len(tensor.dims)
        parts.append(_packed_string(tensor.name) + struct.pack(f"<I{n}QIQ", n, *tensor.dims, tensor.type, offset))
        offset += size + pad_to(size, ALIGNMENT)
    header = b"".join(parts)
    header += bytes(pad_to(len(header), ALIGNMENT))
    return Plan(header, model.tensors, len(header) + offset)


def chunks(planned: Plan) -> Iterator[bytes | memoryview]:
    """Yield the bytes of the file in order; a chunk stays valid until the second chunk after it is requested."""
    yield planned.header
    for tensor in planned.tensors:
        source = tensor.source
        if isinstance(source, FileRange):
            yield from read_chunks(source.file, offset=source.offset, size=source.size)
        elif isinstance(source, bytes):
            yield from split_chunks(memoryview(source))
        else:
            yield from split_chunks(np.ascontiguousarray(source).reshape(-1).view(np.uint8).data)
        yield bytes(pad_to(_source_size(tensor), ALIGNMENT))


def _source_size(tensor: Tensor) -> int:
    source = tensor.source
    if isinstance(source, FileRange):
        return source.size
    return len(source) if isinstance(source, bytes) else source.nbytes


def _packed_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
