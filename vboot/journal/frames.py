"""The frames of the log: what a head must say to continue the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from vboot.journal import tables
from vboot.journal.device import Device
from vboot.journal.layout import Structure
from vboot.journal.superblock import Superblock
from vboot.journal.tables import BLOCK, FRAME_HEAD_BYTES

_STRUCTURE = Structure(tables.FRAME)
_COVERED = tables.FRAME_HEAD_BYTES - 32
_MAGIC = np.frombuffer(tables.FRAME_MAGIC, np.uint8)


@dataclass(frozen=True)
class Frame:
    """The head of a frame whose magic, digest and offset are right. `offset`: its logical offset."""

    number: int
    offset: int
    sequence: int
    content_bytes: int
    entries: int
    boot: int
    nonce: bytes
    content_sum: bytes
    chain: bytes
    digest: bytes

    @property
    def end(self) -> int:
        """The logical offset of the next frame."""
        return self.offset + -(-(FRAME_HEAD_BYTES + self.content_bytes) // BLOCK) * BLOCK


class Area:
    """The log area of a device, addressed by logical offsets."""

    def __init__(self, device: Device, superblock: Superblock) -> None:
        self.superblock = superblock
        self._device = device

    def place(self, offset: int) -> int:
        """Where on the device a logical offset is."""
        return self.superblock.area_offset + offset % self.superblock.area_bytes

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from a logical offset on, which may cross the end of the ring."""
        before_end = min(size, self.superblock.area_bytes - offset % self.superblock.area_bytes)
        found = self._device.read(self.place(offset), before_end)
        return found if before_end == size else found + self.read(offset + before_end, size - before_end)

    def head(self, offset: int) -> Frame | None:
        """The head of a frame at a logical offset; None if none is right there."""
        return self._parse(self.read(offset, FRAME_HEAD_BYTES), offset)

    def later_heads(self, start: int, end: int) -> Iterator[Frame]:
        """The right heads at multiples of a block from logical offset `start` until before `end`."""
        at = start
        while at < end:
            size = min(1 << 20, end - at)
            data = self.read(at, size)
            blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK)[:, : len(_MAGIC)]
            for number in np.flatnonzero((blocks == _MAGIC).all(axis=1)).tolist():
                place = number * BLOCK
                frame = self._parse(data[place : place + FRAME_HEAD_BYTES], at + place)
                if frame is not None:
                    yield frame
            at += size

    def content(self, frame: Frame) -> bytes | None:
        """The entries of a frame; None if they are not those that its head names."""
        content = self.read(frame.offset + FRAME_HEAD_BYTES, frame.content_bytes)
        seed = int.from_bytes(self.superblock.salt[:8], "little")
        found = xxhash.xxh3_128_intdigest(content, seed=seed).to_bytes(16, "little")
        return content if found == frame.content_sum else None

    def _parse(self, data: bytes, offset: int) -> Frame | None:
        values = _STRUCTURE.unpack(data)
        if values.pop("magic") != tables.FRAME_MAGIC or values["offset"] != offset:
            return None
        if values["digest"] != hashlib.sha256(self.superblock.salt + data[:_COVERED]).digest():
            return None
        del values["zero"], values["reserved"]
        return Frame(**values)
