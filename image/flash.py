"""Writes a disk image to a disk, and reads it back.

The first sectors, without which nothing boots, are cleared first and written last: a disk on which the writing was
interrupted never looks like a whole one. What the image does not store, its holes, is cleared on the disk too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

from image import disk as disks
from image import gpt
from vboot.errors import VbootError

CHUNK = 4 << 20
"""Bytes of one write; a multiple of every disk's sector."""
_HEAD = gpt.ALIGNMENT
"""What is written last: the table of partitions, up to the first partition."""

Progress = Callable[[str, int, int], None]


class FlashError(VbootError):
    """A disk failed while it was written or read back. `offset`: the byte at which it did."""

    def __init__(self, what: str, *, offset: int, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.offset = offset


class Target(Protocol):
    """A disk: all offsets and lengths are multiples of its sector."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes as they are on the disk, not in a cache. Raises OSError."""

    def write(self, offset: int, data: bytes) -> None:
        """Write all of it. Raises OSError."""

    def clear(self, offset: int, size: int) -> None:
        """Make the bytes zero. Raises OSError."""

    def flush(self) -> None:
        """Return when all is on the disk. Raises OSError."""


@dataclass(frozen=True)
class Flashed:
    """What was done: bytes of data written, bytes cleared, bytes read back and compared."""

    written: int
    cleared: int
    compared: int


def flash(image: BinaryIO, target: Target, *, progress: Progress) -> Flashed:
    """Write the image to the target, and compare it. The target must be at least as large.

    The copy of the partition table goes to the end of the target, where tools expect it. Raises FlashError, and
    DiskError or GptError for a file that is no disk of vector_boot.
    """
    size = image.seek(0, os.SEEK_END)
    table = disks.open_disk(image, size=size).gpt
    head, tail = gpt.render(replace(table, disk_size=target.size))
    end = max(partition.end for partition in table.partitions)
    pieces = list(_pieces(image, _HEAD, end))
    total = sum(length for _, length, stored in pieces if stored)
    written = cleared = 0
    with _told("clearing", 0):
        target.clear(0, _HEAD)
        target.flush()
    for offset, length, stored in pieces:
        with _told("writing", offset):
            if stored:
                target.write(offset, _read(image, offset, length))
                written += length
                progress("writing", written, total)
            else:
                target.clear(offset, length)
                cleared += length
    tail_at = target.size - len(tail)
    with _told("writing", tail_at):
        _put(target, tail_at, tail)
        target.flush()
    compared = _compare(image, target, pieces, progress)
    with _told("writing", 0):
        target.write(0, head.ljust(_HEAD, b"\0"))
        target.flush()
        for offset, expected in ((0, head.ljust(_HEAD, b"\0")), (tail_at, tail)):
            if _get(target, offset, len(expected)) != expected:
                raise _differs(offset)
    return Flashed(written + len(head) + len(tail), cleared, compared)


def _pieces(image: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Offset, length, and whether the file stores it, of each part of the image; holes are whole."""
    at = start
    while at < end:
        data = _seek(image, at, os.SEEK_DATA, end) // gpt.SECTOR * gpt.SECTOR
        if data > at:
            yield at, data - at, False
            at = data
            continue
        hole = -(-_seek(image, at, os.SEEK_HOLE, end) // gpt.SECTOR) * gpt.SECTOR
        while at < min(hole, end):
            length = min(CHUNK, min(hole, end) - at)
            yield at, length, True
            at += length


def _seek(image: BinaryIO, at: int, whence: int, end: int) -> int:
    try:
        return min(os.lseek(image.fileno(), at, whence), end)
    except OSError:  # beyond the last data, or a file system without holes
        return end if whence == os.SEEK_HOLE or _stores_holes(image) else at


def _stores_holes(image: BinaryIO) -> bool:
    try:
        os.lseek(image.fileno(), 0, os.SEEK_HOLE)
    except OSError:
        return False
    return True


def _compare(image: BinaryIO, target: Target, pieces: list[tuple[int, int, bool]], progress: Progress) -> int:
    total = sum(length for _, length, _ in pieces)
    done = 0
    for start, whole, stored in pieces:
        for offset in range(start, start + whole, CHUNK):
            length = min(CHUNK, start + whole - offset)
            with _told("reading back", offset):
                found = target.read(offset, length)
            expected = _read(image, offset, length) if stored else bytes(length)
            if found != expected:
                first = next(at for at in range(length) if found[at : at + 1] != expected[at : at + 1])
                raise _differs(offset + first)
            done += length
            progress("reading back", done, total)
    return done


def _read(image: BinaryIO, offset: int, size: int) -> bytes:
    image.seek(offset)
    data = image.read(size)
    if len(data) < size:
        raise FlashError(
            f"the image ends at byte {offset + len(data)}", offset=offset, remedy="do not change it while it is written"
        )
    return data


def _put(target: Target, offset: int, data: bytes) -> None:
    """Write bytes that are not whole pages, with what is around them."""
    start = offset // 4096 * 4096
    around = target.read(start, offset - start) if offset > start else b""
    target.write(start, around + data)


def _get(target: Target, offset: int, size: int) -> bytes:
    start = offset // 4096 * 4096
    return target.read(start, offset - start + size)[offset - start :]


@contextmanager
def _told(doing: str, offset: int) -> Iterator[None]:
    """Turn an OSError of the block into a FlashError."""
    try:
        yield
    except OSError as error:
        what = f"{doing} failed at byte {offset}: {(error.strerror or str(error)).lower()}"
        remedy = "the disk holds no bootable system now: try again, or use another disk"
        raise FlashError(what, offset=offset, remedy=remedy) from error


def _differs(offset: int) -> FlashError:
    what = f"byte {offset} was read back with another value than was written"
    return FlashError(what, offset=offset, remedy="the disk is faulty or smaller than it says: use another one")
