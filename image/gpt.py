"""GUID partition tables (UEFI specification 2.10, section 5.3), on disks with sectors of 512 bytes. Pure.

A table is stored twice: behind a protective MBR at the beginning of the disk, and in its last 33 sectors. Each copy is
a header of one sector and 128 entries of 128 bytes, with a CRC-32 each.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO
from uuid import UUID

from vboot.errors import InputError

SECTOR = 512
ALIGNMENT = 1 << 20
"""Partitions begin and end on multiples of this, the boundary that firmware and partitioning tools use."""
ENTRIES = 128
ENTRY_BYTES = 128
NAME_UNITS = 36
"""A name has at most so many UTF-16 code units."""
TABLE_SECTORS = ENTRIES * ENTRY_BYTES // SECTOR
PRIMARY_BYTES = (2 + TABLE_SECTORS) * SECTOR
"""Protective MBR, primary header and entries, from the first byte of the disk."""
BACKUP_BYTES = (TABLE_SECTORS + 1) * SECTOR
"""Entries and backup header, up to the last byte of the disk."""

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_ENTRIES_AT = 446
_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_PROTECTIVE = 0xEE
_UNUSED = bytes(16)
_MAX_ENTRIES = 1024
"""More than any tool writes; a header that names more is refused before its entries are read."""


class GptError(InputError):
    """A disk has no valid partition table, or one cannot be made."""


@dataclass(frozen=True)
class Partition:
    """One partition: `start` and `size` are bytes, whole sectors; `type_guid` says its use, `guid` is its own."""

    name: str
    type_guid: UUID
    guid: UUID
    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Gpt:
    """A partition table as it was read.

    `disk_size` is the size of the disk it was made for, in bytes: less than that of a larger disk it was copied to, at
    whose end there is no backup then. `copy` is the one that was valid: "primary", or "backup" if that was damaged.
    """

    disk_guid: UUID
    partitions: tuple[Partition, ...]
    disk_size: int
    copy: str = "primary"

    def of_type(self, type_guid: UUID) -> tuple[Partition, ...]:
        """The partitions of a type, in the order of the table."""
        return tuple(partition for partition in self.partitions if partition.type_guid == type_guid)


def lay_out(partitions: Sequence[Partition]) -> tuple[tuple[Partition, ...], int]:
    """The partitions one behind the other, sizes rounded up to `ALIGNMENT`; and the size of the disk in bytes.

    The `start` of those given is ignored.
    """
    placed = []
    at = ALIGNMENT
    for partition in partitions:
        size = -(-partition.size // ALIGNMENT) * ALIGNMENT
        placed.append(replace(partition, start=at, size=size))
        at += size
    return tuple(placed), at + ALIGNMENT


def render(gpt: Gpt) -> tuple[bytes, bytes]:
    """The first `PRIMARY_BYTES` and the last `BACKUP_BYTES` of the disk.

    Raises GptError for a table that no reader would accept.
    """
    if gpt.disk_size % SECTOR or gpt.disk_size < PRIMARY_BYTES + BACKUP_BYTES:
        raise GptError(f"a disk of {gpt.disk_size} bytes cannot have a partition table; use whole sectors of {SECTOR}")
    if len(gpt.partitions) > ENTRIES:
        raise GptError(f"expected at most {ENTRIES} partitions, got {len(gpt.partitions)}")
    _check_places(gpt.partitions, gpt.disk_size)
    entries = b"".join(map(_entry, gpt.partitions)).ljust(ENTRIES * ENTRY_BYTES, b"\0")
    last = gpt.disk_size // SECTOR - 1
    primary = _header(gpt, entries, own=1, other=last, table=2)
    backup = _header(gpt, entries, own=last, other=1, table=last - TABLE_SECTORS)
    return _protective_mbr(last) + primary + entries, entries + backup


def read(disk: BinaryIO, *, disk_size: int) -> Gpt:
    """Read the table of a disk of `disk_size` bytes: the primary one, or the backup if that is damaged.

    Raises GptError that names what is wrong with both.
    """
    _require_protective_mbr(disk)
    try:
        return _read_copy(disk, SECTOR, disk_size, copy="primary")
    except GptError as primary:
        try:
            return _read_copy(disk, disk_size - SECTOR, disk_size, copy="backup")
        except GptError as backup:
            raise GptError(f"no valid partition table: {primary.what}; {backup.what}") from backup


def read_both(disk: BinaryIO, *, disk_size: int) -> Gpt:
    """Read both copies of the table. Raises GptError if one is damaged, or they are of different tables."""
    _require_protective_mbr(disk)
    primary = _read_copy(disk, SECTOR, disk_size, copy="primary")
    backup = _read_copy(disk, primary.disk_size - SECTOR, disk_size, copy="backup")
    if replace(backup, copy="primary") != primary:
        raise GptError("the two copies of the partition table differ")
    return primary


def is_partitioned(head: bytes) -> bool:
    """Whether a disk that begins with these bytes has a protective MBR, as in front of a GUID partition table."""
    return len(head) >= SECTOR and head[510:SECTOR] == b"\x55\xaa" and head[_MBR_ENTRIES_AT + 4] == _PROTECTIVE


def _require_protective_mbr(disk: BinaryIO) -> None:
    disk.seek(0)
    if not is_partitioned(disk.read(SECTOR)):
        raise GptError("no partition table: expected a protective MBR in the first sector")


def _read_copy(disk: BinaryIO, at: int, disk_size: int, *, copy: str) -> Gpt:
    """Read the copy whose header is at byte `at`. Raises GptError."""
    disk.seek(at)
    head = disk.read(SECTOR)
    if len(head) < SECTOR or head[:8] != _SIGNATURE:
        raise GptError(f"the {copy} header does not begin with {_SIGNATURE.decode()!r}")
    _, revision, size, crc, _, own, other, first, last, guid, table, count, entry_bytes, entries_crc = (
        _HEADER.unpack_from(head)
    )
    if revision != _REVISION or not _HEADER.size <= size <= SECTOR:
        raise GptError(f"the {copy} header has revision {revision:#x} and {size} bytes, expected {_REVISION:#x} and 92")
    if binascii.crc32(head[:16] + bytes(4) + head[20:size]) != crc:
        raise GptError(f"the {copy} header's CRC is wrong")
    if own * SECTOR != at:
        raise GptError(f"the {copy} header says that it is in sector {own}, and it is in sector {at // SECTOR}")
    if entry_bytes != ENTRY_BYTES or not 0 < count <= _MAX_ENTRIES:
        raise GptError(
            f"the {copy} header tells of {count} entries of {entry_bytes} bytes, expected up to {_MAX_ENTRIES} of 128"
        )
    entries = _read_entries(disk, table, count, disk_size=disk_size, copy=copy)
    if binascii.crc32(entries) != entries_crc:
        raise GptError(f"the CRC of the {copy} entries is wrong")
    made_for = (max(own, other) + 1) * SECTOR
    if made_for > disk_size or last * SECTOR >= made_for or first > last:
        raise GptError(f"the {copy} table is for a disk of {made_for} bytes, and this one has {disk_size}")
    partitions = tuple(_partition(entries[start : start + ENTRY_BYTES]) for start in _used(entries))
    _check_places(partitions, made_for, first=first * SECTOR, end=(last + 1) * SECTOR)
    return Gpt(UUID(bytes_le=guid), partitions, made_for, copy)


def _read_entries(disk: BinaryIO, table: int, count: int, *, disk_size: int, copy: str) -> bytes:
    size = count * ENTRY_BYTES
    if table * SECTOR + size > disk_size:
        raise GptError(f"the {copy} entries begin in sector {table}, beyond the end of the disk")
    disk.seek(table * SECTOR)
    entries = disk.read(size)
    if len(entries) < size:
        raise GptError(f"the {copy} entries cannot be read: {len(entries)} of {size} bytes")
    return entries


def _used(entries: bytes) -> list[int]:
    return [start for start in range(0, len(entries), ENTRY_BYTES) if entries[start : start + 16] != _UNUSED]


def _partition(entry: bytes) -> Partition:
    type_guid, guid, first, last, _, name = _ENTRY.unpack(entry)
    text = name.decode("utf-16-le", "replace").partition("\0")[0]
    start = first * SECTOR
    return Partition(text, UUID(bytes_le=type_guid), UUID(bytes_le=guid), start, (last + 1) * SECTOR - start)


def _check_places(partitions: Sequence[Partition], disk_size: int, *, first: int = 0, end: int = 0) -> None:
    """Refuse partitions that overlap, or lie over the tables. Raises GptError."""
    free, end = max(first, PRIMARY_BYTES), min(end or disk_size, disk_size - BACKUP_BYTES)
    for partition in sorted(partitions, key=lambda each: each.start):
        if partition.size <= 0 or partition.start % SECTOR or partition.size % SECTOR:
            raise GptError(f"partition {partition.name!r} has {partition.size} bytes, expected whole sectors")
        if partition.start < free or partition.end > end:
            place = f"bytes {partition.start} to {partition.end}"
            raise GptError(f"partition {partition.name!r} at {place} overlaps another one, or lies outside the disk")
        free = partition.end


def _entry(partition: Partition) -> bytes:
    name = partition.name.encode("utf-16-le")
    if len(name) > 2 * NAME_UNITS:
        raise GptError(f"the partition name {partition.name!r} is longer than {NAME_UNITS} characters")
    first, last = partition.start // SECTOR, partition.end // SECTOR - 1
    return _ENTRY.pack(partition.type_guid.bytes_le, partition.guid.bytes_le, first, last, 0, name)


def _header(gpt: Gpt, entries: bytes, *, own: int, other: int, table: int) -> bytes:
    first, last = PRIMARY_BYTES // SECTOR, (gpt.disk_size - BACKUP_BYTES) // SECTOR - 1
    entries_crc = binascii.crc32(entries)

    def pack(crc: int) -> bytes:
        return _HEADER.pack(
            _SIGNATURE, _REVISION, _HEADER.size, crc, 0, own, other, first, last, gpt.disk_guid.bytes_le, table,
            ENTRIES, ENTRY_BYTES, entries_crc,
        )  # fmt: skip

    return pack(binascii.crc32(pack(0))).ljust(SECTOR, b"\0")


def _protective_mbr(last: int) -> bytes:
    """One entry over the whole disk, so that tools that know no GPT leave it alone."""
    entry = _MBR_ENTRY.pack(0, b"\x00\x02\x00", _PROTECTIVE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return bytes(_MBR_ENTRIES_AT) + entry.ljust(64, b"\0") + b"\x55\xaa"
