"""The header of a GGUF file some of whose tensors change their types, and so their places. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

from vboot.gguf import Layout, TensorEntry, pad_to, tensor_bytes

_TYPE_AND_OFFSET = struct.Struct("<IQ")


def relayout(header: bytes, layout: Layout, types: Mapping[str, int]) -> tuple[bytes, tuple[TensorEntry, ...]]:
    """The header, all of it before the data, and the tensors' places, with other `types` (ggml's numbers) for some.

    Metadata, names, shapes and order keep every byte: only types and offsets in the table of tensors are others.
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
