"""The entries of a frame, and what their payloads hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from vboot.journal import tables
from vboot.journal.layout import Structure
from vboot.journal.tables import ENTRY_HEAD_BYTES, ENTRY_MAGIC

_STRUCTURE = Structure(tables.ENTRY)
_ID_FIXED = struct.Struct("<16sBBII")
_ID_NUMBERS = 5
_HAS_UPLOAD = 2


class Kind(IntEnum):
    """What an entry is."""

    MUTATE = 1
    ROLLBACK = 2
    PROMOTE = 3
    LEASE_EXPIRED = 4
    RENEW = 5
    IMAGE = 6

    @property
    def makes_generation(self) -> bool:
        """Whether the weights have a new generation after it."""
        return self in (Kind.MUTATE, Kind.ROLLBACK, Kind.LEASE_EXPIRED)


@dataclass(frozen=True)
class Head:
    """The head of an entry, as it is stored."""

    kind: Kind
    flags: int
    changed_tensors: int
    params_crc: int
    blob_crc: int
    payload_sum: int
    edits: int
    sequence: int
    generation: int
    fingerprint: int
    promoted: int
    lease_until_us: int
    target: int
    content_bytes: int
    changed_bytes: int
    payload_bytes: int
    id: bytes
    upload: bytes
    origin: bytes
    confidence: float
    uptime_us: int

    @property
    def holds_image(self) -> bool:
        """Whether the payload is an image."""
        is_return = self.kind in (Kind.ROLLBACK, Kind.LEASE_EXPIRED)
        return self.kind == Kind.IMAGE or (is_return and self.payload_bytes > 0)

    @property
    def who(self) -> str:
        """The origin as text."""
        return self.origin.rstrip(b"\0").decode("utf-8", "replace")


@dataclass(frozen=True)
class Entry:
    """An entry: its head, its logical offset, and the frame and the boot that wrote it."""

    head: Head
    offset: int
    frame: int
    boot: int


@dataclass(frozen=True, eq=False)
class Image:
    """Contents of the weights: the pages that differ from the file, u32 (k,), and their bytes, uint8 (k, 4096)."""

    pages: NDArray[np.uint32]
    ids: tuple[bytes, ...]
    contents: bytes


class EntryError(ValueError):
    """An entry is not valid, or its payload is not what its kind has. `place`: bytes from where the frame's begin."""

    def __init__(self, place: int, why: str) -> None:
        super().__init__(why)
        self.place = place


def entries(content: bytes, *, count: int, sequence: int) -> Iterator[tuple[int, Head]]:
    """The entries of a frame: place in the content, and head. Raises EntryError for one that is not valid."""
    at = 0
    if count == 0:
        raise EntryError(at, "the frame has no entries")
    for number in range(count):
        head = _head(content, at, sequence + number)
        if number > 0 and head.holds_image:
            raise EntryError(at, "it holds an image, and is not the first of its frame")
        end = at + ENTRY_HEAD_BYTES + head.payload_bytes
        if end > len(content):
            raise EntryError(at, f"its payload of {head.payload_bytes} bytes leaves the frame")
        yield at, head
        at = end + -end % tables.ENTRY_ALIGNMENT
    if at != len(content):
        raise EntryError(at, f"the frame has {len(content)} bytes of entries, and {count} entries take {at}")


def _head(content: bytes, at: int, sequence: int) -> Head:
    if at + ENTRY_HEAD_BYTES > len(content):
        raise EntryError(at, "its head leaves the frame")
    values = _STRUCTURE.unpack(content, at)
    magic, crc, kind = values.pop("magic"), values.pop("crc"), values.pop("kind")
    if magic != ENTRY_MAGIC:
        raise EntryError(at, f"it begins with {magic.hex()}, not {ENTRY_MAGIC.hex()}")
    found = google_crc32c.value(content[at + 8 : at + ENTRY_HEAD_BYTES])
    if found != crc:
        raise EntryError(at, f"the checksum of its head is {found:08x}, not {crc:08x}")
    if kind not in tables.ENTRY_KINDS:
        raise EntryError(at, f"its kind is {kind}")
    del values["zero"]
    head = Head(Kind(kind), **values)
    if head.sequence != sequence:
        raise EntryError(at, f"its sequence number is {head.sequence}, not {sequence}")
    return head


def is_payload_right(head: Head, payload: bytes) -> bool:
    """Whether the payload has the sum that the head says."""
    found: int = xxhash.xxh3_64_intdigest(payload)
    return found & 0xFFFFFFFF == head.payload_sum


def parse_mutation(payload: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The edits of a mutation and their blob. Raises ValueError."""
    if len(payload) < 16:
        raise ValueError(f"a mutation of {len(payload)} bytes")
    edits_bytes, reply_bytes = struct.unpack_from("<QQ", payload)
    blob_at = 16 + edits_bytes + reply_bytes
    if blob_at > len(payload):
        raise ValueError(f"edits of {edits_bytes} and a reply of {reply_bytes} bytes leave the payload")
    try:
        edits = json.loads(payload[16 : 16 + edits_bytes])
    except RecursionError as error:
        raise ValueError("the edits are nested too deeply") from error
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise ValueError("the edits are not a list of objects")
    return edits, payload[blob_at:]


def parse_image(payload: bytes, *, page_bytes: int = 4096) -> Image:
    """An image. Raises ValueError."""
    if len(payload) < 16:
        raise ValueError(f"an image of {len(payload)} bytes")
    count, ids_bytes = struct.unpack_from("<QQ", payload)
    if 16 + 4 * count + ids_bytes > len(payload):
        raise ValueError(f"{count} pages and {ids_bytes} bytes of ids leave the payload")
    pages = np.frombuffer(payload, "<u4", count, 16)
    if (pages[1:] <= pages[:-1]).any():
        raise ValueError("the pages are not in ascending order")
    ids_at = 16 + 4 * count
    return Image(pages, tuple(_ids(payload[ids_at : ids_at + ids_bytes])), payload[ids_at + ids_bytes :])


def _ids(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if at + _ID_FIXED.size > len(data):
            raise ValueError("an id leaves the image")
        id_, kind, flags, *_ = _ID_FIXED.unpack_from(data, at)
        if kind not in tables.ENTRY_KINDS:
            raise ValueError(f"an id of kind {kind}")
        at += _ID_FIXED.size
        for _ in range(_ID_NUMBERS):
            at = _skip_number(data, at)
        at += 16 if flags & _HAS_UPLOAD else 0
        if at > len(data):
            raise ValueError("an id leaves the image")
        yield id_


def _skip_number(data: bytes, at: int) -> int:
    """Where an unsigned LEB128 number of at most 64 bits ends."""
    for place in range(at, min(at + 10, len(data))):
        if data[place] < 0x80:
            if place == at + 9 and data[place] > 1:
                raise ValueError("a number of an id has more than 64 bits")
            return place + 1
    raise ValueError("a number of an id does not end")
