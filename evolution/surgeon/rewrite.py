"""Applies an operation to a GGUF file: computes the report, and passes the new file's bytes to a sink."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from gguf import GGMLQuantizationType

from evolution.surgeon.difference import count_changed
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import PROTECTED
from evolution.surgeon.operation import Change, Operation
from evolution.surgeon.reports import SurgeryReport, TensorChange
from evolution.surgeon.values import stored
from vboot.gguf import Layout, TensorEntry, pad_to, tensor_bytes
from vboot.protocol.tables import Code
from vboot.weights.arithmetic import EditError, TensorData
from vboot.weights.storage_types import all_finite, block_of

Sink: TypeAlias = Callable[[int, memoryview], None]
"""Called with an offset in the new file and the bytes there; each byte once, in any order."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the current phase, bytes done and bytes in all (0: not known)."""

_CHUNK = 1 << 22
_TYPE_AND_OFFSET = struct.Struct("<IQ")


def rewrite(base: GGUFFile, operation: Operation, sink: Sink | None, progress: Progress) -> SurgeryReport:
    """Apply an operation to a file. Without a sink only the report is computed.

    One changed tensor is held in memory at a time. Raises EditError if it would change nothing or a protected tensor,
    or produce a value that is not finite; the sink may already have received data.
    """
    numbers = {name: int(GGMLQuantizationType[kind]) for name, kind in operation.types.items()}
    header, places = _relaid(bytes(base.data[: base.layout.data_offset]), base.layout, numbers)
    at = {info.name: info.offset for info in places}
    changed: dict[str, TensorChange] = {}
    done = 0
    for change in operation.changes:
        report = _judge(base.tensors[change.name], change, operation.types.get(change.name))
        done += len(change.data)
        progress("compute", done, 0)
        if report is not None:
            changed[change.name] = report
            if sink is not None:
                sink(at[change.name], change.data.data)
    if not changed:
        raise EditError(Code.NO_CHANGE, "the operation changes nothing")
    size = places[-1].offset + places[-1].size + len(_padding(base, len(places) - 1, places))
    if sink is not None:
        sink(0, memoryview(header))
        for offset, part in _unchanged(base, places, changed):
            for start in range(0, len(part), _CHUNK):
                sink(offset + start, part[start : start + _CHUNK])
                progress("copy", offset + start, size)
    progress("hash", 0, 0)
    return SurgeryReport(
        base=str(base.path),
        output=None,
        bytes=size,
        changed_bytes=sum(each.changed_bytes for each in changed.values()),
        model_before=base.model_sha256(),
        model=base.model_sha256({name: each.sha256 for name, each in changed.items()}),
        tensors=tuple(changed[name] for name in base.tensors if name in changed),
        kept=operation.kept,
        distances=operation.distances,
    )


def _relaid(header: bytes, layout: Layout, types: Mapping[str, int]) -> tuple[bytes, tuple[TensorEntry, ...]]:
    """The header (all bytes before the data) and the places of the tensors, some with new `types` (ggml's numbers).

    Metadata, names, shapes and order keep every byte. Only types and offsets in the table of tensors change.
    """
    patched = bytearray(header)
    offset = layout.data_offset
    infos = []
    for info in layout.tensors:
        kind = types.get(info.name, info.type)
        size = tensor_bytes(kind, info.dims)
        infos.append(replace(info, type=kind, offset=offset, size=size))
        _TYPE_AND_OFFSET.pack_into(patched, info.type_at, kind, offset - layout.data_offset)
        offset += size + pad_to(size, layout.alignment)
    return bytes(patched), tuple(infos)


def _judge(before: TensorData, change: Change, new_type: str | None) -> TensorChange | None:
    """The report on a change; None if the bytes stay the same."""
    kind = new_type or before.type
    if before.name in PROTECTED:
        raise EditError(Code.PROTECTED_TENSOR, f"{before.name!r} is protected")
    size = len(change.data)
    blocks = size // block_of(kind).bytes
    counts = (size, blocks)
    if kind == before.type:
        counts = count_changed(kind, stored(before), change.data)
        if counts == (0, 0):
            return None
    if not all_finite(kind, change.data):
        raise EditError(Code.NOT_FINITE, f"a value of {before.name!r} would not be finite")
    digest = hashlib.sha256(change.data.data).hexdigest()
    return TensorChange(before.name, before.type, kind, size, counts[0], blocks, counts[1], digest)


def _unchanged(
    base: GGUFFile, places: tuple[TensorEntry, ...], changed: Mapping[str, TensorChange]
) -> Iterator[tuple[int, memoryview]]:
    """The unchanged tensors and the padding of all, with their offsets in the new file."""
    for index, (old, new) in enumerate(zip(base.layout.tensors, places, strict=True)):
        if new.name not in changed:
            yield new.offset, base.data[old.offset : old.offset + old.size]
        yield new.offset + new.size, _padding(base, index, places)


def _padding(base: GGUFFile, index: int, places: tuple[TensorEntry, ...]) -> memoryview:
    """The padding after a tensor: that of the base, unless the tensor has another size."""
    infos = base.layout.tensors
    old, new = infos[index], places[index]
    if new.size != old.size:
        return memoryview(bytes(pad_to(new.size, base.layout.alignment)))
    end = infos[index + 1].offset if index + 1 < len(infos) else len(base.data)
    return base.data[old.offset + old.size : end]
