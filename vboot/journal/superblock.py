"""The two superblocks of a state device, and whether a device without a right one is blank."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from vboot.journal import tables
from vboot.journal.device import Device
from vboot.journal.layout import Structure
from vboot.journal.tables import BLOCK, SUPERBLOCK_MAGIC

_STRUCTURE = Structure(tables.SUPERBLOCK)
_COVERED = tables.SUPERBLOCK_BYTES - 32


@dataclass(frozen=True)
class Superblock:
    """A superblock whose magic and digest are right. `file`: SHA-256 of the model's file; `model`: its digest."""

    version: int
    least_reader: int
    turn: int
    device_id: bytes
    salt: bytes
    model: bytes
    file: bytes
    area_offset: int
    area_bytes: int
    start: int
    start_frame: int
    start_sequence: int
    start_chain: bytes
    reach: int

    @property
    def place(self) -> int:
        """Where on the device it is."""
        return BLOCK * (self.turn % 2)

    def is_possible(self) -> bool:
        """Whether its fields describe a log area at all."""
        area = self.area_offset == tables.AREA_START and self.area_bytes > 0 and self.area_bytes % BLOCK == 0
        return area and self.start % BLOCK == 0 and self.reach % BLOCK == 0 and self.reach >= self.start


def parse_superblock(data: bytes) -> Superblock | None:
    """The superblock in the first bytes of its block; None if magic or digest are wrong."""
    values = _STRUCTURE.unpack(data)
    magic, digest = values.pop("magic"), values.pop("digest")
    if magic != SUPERBLOCK_MAGIC or digest != hashlib.sha256(data[:_COVERED]).digest():
        return None
    del values["reserved"]
    return Superblock(**values)


def superblocks(device: Device) -> tuple[Superblock | None, Superblock | None]:
    """Those in block 0 and block 1; None for one that is not right."""
    first, second = (parse_superblock(device.read(place, tables.SUPERBLOCK_BYTES)) for place in (0, BLOCK))
    return first, second


def has_magic(device: Device) -> bool:
    """Whether one of them begins as a superblock does."""
    return SUPERBLOCK_MAGIC in (device.read(place, len(SUPERBLOCK_MAGIC)) for place in (0, BLOCK))


def is_blank(device: Device) -> bool:
    """Whether a machine would format the device: all zero, but for what an interrupted formatting left in block 0."""
    begun = device.read(0, len(SUPERBLOCK_MAGIC)) == SUPERBLOCK_MAGIC
    size = device.size
    for start, end in _looked_at(size):
        for offset, data in device.pieces(start, end):
            rest = data[BLOCK:] if begun and offset == 0 else data
            if any(rest):
                return False
    return True


def _looked_at(size: int) -> list[tuple[int, int]]:
    edge = tables.ZERO_CHECK_EDGE
    if size <= tables.ZERO_CHECK_WHOLE:
        return [(0, size)]
    steps = range(edge, size - edge, tables.ZERO_CHECK_STEP)
    return [(0, edge), *((step, step + BLOCK) for step in steps), (size - edge, size)]
