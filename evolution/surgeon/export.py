"""Exports a plain model: the file without the tensors and keys that a machine adds to it.

Other programs (llama.cpp, candle) refuse a composed file, because it holds tensors that are not part of the model.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from evolution.surgeon.difference import count_changed
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import EMPTY_SLOT_SHA256, MACHINE_TENSORS, SLOTS
from evolution.surgeon.reports import ExportReport
from evolution.surgeon.rewrite import Progress, Sink
from evolution.surgeon.values import stored
from vboot.gguf import (
    ALIGNMENT_KEY,
    LAYOUT_KEY,
    MAGIC,
    SOURCE_ALIGNMENT_KEY,
    Layout,
    Metadata,
    TensorEntry,
    ValueType,
    pad_to,
)

NewContents: TypeAlias = Mapping[str, Callable[[], bytes]]
"""By tensor: a function that returns all its new bytes, called when they are written."""

_KEY_PREFIX = "vector_boot."
_VERSION = 3
_DEFAULT_ALIGNMENT = 32
_CHUNK = 1 << 22


@dataclass(frozen=True)
class PlainLayout:
    """A plain file laid out: its header with padding, its tensors with offsets in it, its alignment and size in bytes.

    `keys` are the keys of the composed file that it does not have.
    """

    header: bytes
    tensors: tuple[TensorEntry, ...]
    alignment: int
    size: int
    keys: tuple[str, ...]


def is_composed(layout: Layout) -> bool:
    """Whether the file was made by `vboot compose`, or evolved from such a file."""
    return any(entry.key == LAYOUT_KEY for entry in layout.metadata)


def plain_layout(layout: Layout) -> PlainLayout:
    """Lay out a file without the machine's tensors and keys; the others keep their order. Pure.

    The alignment is that of the file which was composed. A file that stated one and was composed by a version that did
    not record it keeps the alignment of the composed file.
    """
    entries = _plain_metadata(layout.metadata)
    alignment = _alignment(entries)
    places, offset = [], 0
    for info in layout.tensors:
        if info.name not in MACHINE_TENSORS:
            places.append(replace(info, offset=offset))
            offset += info.size + pad_to(info.size, alignment)
    header = _header(entries, places)
    header += bytes(pad_to(len(header), alignment))
    tensors = tuple(replace(info, offset=len(header) + info.offset) for info in places)
    kept = {entry.key for entry in entries}
    removed = tuple(entry.key for entry in layout.metadata if entry.key not in kept)
    return PlainLayout(header, tensors, alignment, len(header) + offset, removed)


def export(base: GGUFFile, contents: NewContents, sink: Sink, progress: Progress) -> ExportReport:
    """Write the plain model of a file, with new contents for some tensors. One tensor is held at a time.

    A file that was not composed is copied unchanged, apart from these contents. Raises ValueError for contents of
    wrong length, and what reading them raises; the sink may already have received data.
    """
    if is_composed(base.layout):
        plain = plain_layout(base.layout)
        sink(0, memoryview(plain.header))
    else:
        plain = PlainLayout(b"", base.layout.tensors, base.layout.alignment, len(base.data), ())
        _copy(base.data, 0, sink, progress, plain.size)
    written = {info.name for info in plain.tensors}
    olds = (info for info in base.layout.tensors if info.name in written)
    digests: dict[str, str] = {}
    changed_bytes = 0
    for old, new in zip(olds, plain.tensors, strict=True):
        data = base.data[old.offset : old.offset + old.size]
        if new.name in contents:
            data = memoryview(contents[new.name]())
            if len(data) != old.size:
                raise ValueError(f"{len(data)} bytes were given for {new.name}, which has {old.size}")
            digests[new.name] = hashlib.sha256(data).hexdigest()
            tensor = base.tensors[new.name]
            changed_bytes += count_changed(tensor.type, stored(tensor), np.frombuffer(data, np.uint8))[0]
        if plain.header:
            _copy(data, new.offset, sink, progress, plain.size)
            sink(new.offset + new.size, memoryview(bytes(pad_to(new.size, plain.alignment))))
        elif new.name in contents:
            sink(new.offset, data)
    progress("hash", 0, 0)
    removed = [name for name in base.tensors if name not in written]
    slots = dict.fromkeys((name for name in removed if name in SLOTS), EMPTY_SLOT_SHA256)
    return ExportReport(
        base=str(base.path),
        output="",
        bytes=plain.size,
        changed_bytes=changed_bytes,
        model_before=base.model_sha256(),
        model=base.model_sha256(digests | slots),
        tensors=len(plain.tensors),
        removed_tensors=tuple(removed),
        removed_keys=plain.keys,
        lost_kernels=tuple(name for name in slots if base.sha256(name) != EMPTY_SLOT_SHA256),
    )


def _copy(data: memoryview, offset: int, sink: Sink, progress: Progress, size: int) -> None:
    for start in range(0, len(data), _CHUNK):
        sink(offset + start, data[start : start + _CHUNK])
        progress("copy", offset + start, size)


def _plain_metadata(metadata: Sequence[Metadata]) -> tuple[Metadata, ...]:
    """The entries of the model that was composed.

    A composition appends its marks, and then the alignment if the model has none. So an alignment after the mark was
    not in the model.
    """
    keys = [entry.key for entry in metadata]
    source = next((entry.value for entry in metadata if entry.key == SOURCE_ALIGNMENT_KEY), None)
    if source is None and ALIGNMENT_KEY in keys and keys.index(ALIGNMENT_KEY) > keys.index(LAYOUT_KEY):
        metadata = [entry for entry in metadata if entry.key != ALIGNMENT_KEY]
    return tuple(
        replace(entry, value=source) if source is not None and entry.key == ALIGNMENT_KEY else entry
        for entry in metadata
        if not entry.key.startswith(_KEY_PREFIX)
    )


def _alignment(entries: Iterable[Metadata]) -> int:
    for entry in entries:
        if entry.key == ALIGNMENT_KEY:
            kind, alignment = struct.unpack("<II", entry.value)
            assert kind == ValueType.U32, "the parser accepts no other type"
            return int(alignment)
    return _DEFAULT_ALIGNMENT


def _header(entries: Sequence[Metadata], tensors: Sequence[TensorEntry]) -> bytes:
    """Everything before the data section, without its padding; the tensors' offsets are relative to that section."""
    parts = [struct.pack("<4sIQQ", MAGIC, _VERSION, len(tensors), len(entries))]
    parts += [_string(entry.key) + entry.value for entry in entries]
    for info in tensors:
        count = len(info.dims)
        parts.append(_string(info.name) + struct.pack(f"<I{count}QIQ", count, *info.dims, info.type, info.offset))
    return b"".join(parts)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
