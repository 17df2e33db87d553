"""A writer of state devices for tests, from `spec/journal.md`. It can also write what no machine would."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import xxhash

from vboot.journal import tables
from vboot.journal.entries import Kind
from vboot.journal.tables import BLOCK, Field

_CODES = {"u8": "B", "u32": "I", "u64": "Q", "f64": "d"}
SIZE = 16 << 20


def packed(fields: Sequence[Field], values: Mapping[str, Any]) -> bytearray:
    """A structure with these values; what is not named is zero."""
    data = bytearray(fields[-1].offset + fields[-1].bytes)
    for field in fields:
        if field.name in values:
            code = "<" + _CODES.get(field.type, f"{field.bytes}s")
            struct.pack_into(code, data, field.offset, values[field.name])
    return data


def mutation(edits: Sequence[Mapping[str, Any]], blob: bytes = b"") -> bytes:
    """The payload of a mutation."""
    text = json.dumps(list(edits)).encode()
    return struct.pack("<QQ", len(text), 0) + text + blob


def image(pages: Mapping[int, bytes], ids: Sequence[bytes] = ()) -> bytes:
    """The payload of an image; each id is followed by the smallest record that it can have."""
    records = b"".join(struct.pack("<16sBBII", id_, Kind.MUTATE, 0, 0, 0) + bytes(5) for id_ in ids)
    numbers = sorted(pages)
    head = struct.pack(f"<QQ{len(numbers)}I", len(numbers), len(records), *numbers)
    return head + records + b"".join(pages[number] for number in numbers)


class StateWriter:
    """A device in memory. The fields can be set to make a device that no machine writes."""

    def __init__(self, *, size: int = SIZE, file: bytes = bytes(32), model: bytes = bytes(32)) -> None:
        self.data = bytearray(size)
        self.fields: dict[str, Any] = {"magic": tables.SUPERBLOCK_MAGIC, "version": 1, "least_reader": 1, "turn": 0}
        self.fields |= {"device_id": b"i" * 16, "salt": b"s" * 32, "model": model, "file": file}
        self.fields |= {"area_offset": tables.AREA_START, "area_bytes": (size - tables.AREA_START) // BLOCK * BLOCK}
        self.fields["reach"] = min(tables.REACH_STEP, self.fields["area_bytes"])
        self.fields["start_chain"] = bytes(32)
        self.offset = self.number = self.sequence = 0
        self.chain = bytes(32)
        self.boot = 1
        self.put_superblock()
        self.next_superblock()

    def next_superblock(self, **fields: Any) -> None:
        """Write the next one, with some fields changed."""
        self.fields |= {"turn": self.fields["turn"] + 1, **fields}
        self.put_superblock()

    def put_superblock(self) -> None:
        """Write the fields to the place of their turn."""
        data = packed(tables.SUPERBLOCK, self.fields)
        data[-32:] = hashlib.sha256(data[:-32]).digest()
        place = BLOCK * (self.fields["turn"] % 2)
        self.data[place : place + len(data)] = data

    def entry(self, kind: Kind, payload: bytes = b"", *, place: int = 0, **values: Any) -> bytes:
        """An entry, the one number `place` of the next frame."""
        fields = {"magic": tables.ENTRY_MAGIC, "kind": kind, "sequence": self.sequence + place} | values
        fields |= {"payload_bytes": len(payload), "payload_sum": xxhash.xxh3_64_intdigest(payload) & 0xFFFFFFFF}
        head = packed(tables.ENTRY, fields)
        head[4:8] = google_crc32c.value(bytes(head[8:])).to_bytes(4, "little")
        return bytes(head) + payload + bytes(-len(payload) % tables.ENTRY_ALIGNMENT)

    def frame(self, *entries: bytes) -> int:
        """Write a frame at the tail; its logical offset."""
        content = b"".join(entries)
        seed = int.from_bytes(self.fields["salt"][:8], "little")
        fields = {"magic": tables.FRAME_MAGIC, "number": self.number, "offset": self.offset, "sequence": self.sequence}
        fields |= {"content_bytes": len(content), "entries": len(entries), "boot": self.boot, "nonce": b"n" * 16}
        fields |= {"content_sum": xxhash.xxh3_128_intdigest(content, seed=seed).to_bytes(16, "little")}
        head = packed(tables.FRAME, fields | {"chain": self.chain})
        head[-32:] = hashlib.sha256(self.fields["salt"] + head[:-32]).digest()
        whole = bytes(head) + content
        self._put(self.offset, whole + bytes(-len(whole) % BLOCK))
        at = self.offset
        self.offset += len(whole) + -len(whole) % BLOCK
        self.number, self.sequence, self.chain = self.number + 1, self.sequence + len(entries), bytes(head[-32:])
        if self.offset > self.fields["reach"]:
            self.next_superblock(reach=self.offset)
        return at

    def start_at_next(self) -> dict[str, Any]:
        """The fields of a superblock whose log begins with the frame that is written next."""
        names = ("start", "start_frame", "start_sequence", "start_chain")
        return dict(zip(names, (self.offset, self.number, self.sequence, self.chain), strict=True))

    def place(self, offset: int) -> int:
        """The byte of the device at a logical offset."""
        area: int = self.fields["area_bytes"]
        return tables.AREA_START + offset % area

    def _put(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), BLOCK):
            place = self.place(offset + at)
            self.data[place : place + BLOCK] = data[at : at + BLOCK]
