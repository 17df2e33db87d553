"""Reads the log of QEMU's blklogwrites (the format of dm-log-writes): what reached a disk, in order, and its flushes.

The head of the log is written at a flush only, so after a kill its number of entries is stale, or all of it is still
zero: the entries are read on until one is not whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from random import Random

_HEAD = struct.Struct("<QQQI")
_MAGIC = 0x6A736677736872
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _DISCARD = 1, 4
SECTOR = 512


@dataclass(frozen=True)
class Write:
    """Bytes that were written at an offset of the disk."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class WriteLog:
    """Epochs: the writes between two flushes. The last one was not flushed."""

    epochs: tuple[tuple[Write, ...], ...]

    def images(self, disk: bytearray | mmap, random: Random, *, subsets: int) -> Iterator[int]:
        """Make of `disk`, which is as before the log, each crash state in turn; yields the number of its epoch.

        Each prefix of the writes of an epoch, and random subsets of their sectors. The contents last until the next.
        """
        for number, writes in enumerate(self.epochs):
            before = [(write.offset, disk[write.offset : write.offset + len(write.data)]) for write in writes]
            for count in range(len(writes) + 1):
                _put(disk, [(write.offset, write.data) for write in writes[:count]])
                yield number
                _put(disk, reversed(before))
            for _ in range(subsets if writes else 0):
                _put(disk, _torn(writes, random))
                yield number
                _put(disk, reversed(before))
            _put(disk, [(write.offset, write.data) for write in writes])


def read_log(path: Path) -> WriteLog:
    """The log in a file. Raises ValueError if it is none."""
    data = path.read_bytes()
    magic, _version, _entries, sector_bytes = _HEAD.unpack_from(data.ljust(_HEAD.size, b"\0"))
    if magic == sector_bytes == 0:
        sector_bytes = SECTOR
    elif magic != _MAGIC:
        raise ValueError(f"{path} begins with {magic:#x}, expected {_MAGIC:#x}")
    epochs: list[list[Write]] = [[]]
    at = sector_bytes
    while at + sector_bytes <= len(data):
        sector, sectors, flags, _ = _ENTRY.unpack_from(data, at)
        length = 0 if flags & _DISCARD else sectors * sector_bytes
        if (sectors, flags) == (0, 0) or at + sector_bytes + length > len(data):
            break
        at += sector_bytes
        if length:
            epochs[-1].append(Write(sector * sector_bytes, data[at : at + length]))
            at += length
        if flags & _FLUSH:
            epochs.append([])
    return WriteLog(tuple(map(tuple, epochs)))


def _put(disk: bytearray | mmap, parts: Iterable[tuple[int, bytes | bytearray]]) -> None:
    for offset, data in parts:
        disk[offset : offset + len(data)] = data


def _torn(writes: tuple[Write, ...], random: Random) -> Iterator[tuple[int, bytes]]:
    """Each sector of each write, or not, by chance: the others stay as they are."""
    share = random.random()
    for write in writes:
        for start in range(0, len(write.data), SECTOR):
            if random.random() < share:
                yield write.offset + start, write.data[start : start + SECTOR]
