"""What a machine finds on a state device when it opens it: the steps "Opening" and "Recovery" of `spec/journal.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vboot.journal.device import Device
from vboot.journal.entries import Entry, EntryError, entries, is_payload_right
from vboot.journal.frames import Area, Frame
from vboot.journal.superblock import Superblock, has_magic, is_blank, superblocks
from vboot.journal.tables import AREA_START, BLOCK, DEVICE_LEAST, ENTRY_HEAD_BYTES, FORMAT_VERSION, FRAME_HEAD_BYTES

Reason: TypeAlias = Literal["too_small", "damaged", "foreign", "newer", "other_model"]
"""The words of `data.reason` with which a machine refuses changes, as far as the bytes alone decide it."""

_TRIES = 5


@dataclass(frozen=True)
class Fault:
    """Why a machine would take no changes on this device. `offset`: the byte of the file; `record`: what is there."""

    reason: Reason
    offset: int
    record: str
    why: str

    def __str__(self) -> str:
        return f"offset {self.offset}: {self.record}: {self.why}"


@dataclass(frozen=True)
class Log:
    """What is on a device. Without a superblock it is blank, or there is a fault.

    `frames` and `entries` are those from the start on that are sound, also where there is a fault behind them. `tail`:
    the logical offset where they end.
    """

    size: int
    area: Area | None = None
    superblocks: tuple[Superblock | None, Superblock | None] = (None, None)
    frames: tuple[Frame, ...] = ()
    entries: tuple[Entry, ...] = ()
    tail: int = 0
    fault: Fault | None = None

    @property
    def superblock(self) -> Superblock | None:
        """The current one."""
        return self.area.superblock if self.area else None

    @property
    def free_bytes(self) -> int:
        """What of the ring is behind the tail."""
        return self.area.superblock.start + self.area.superblock.area_bytes - self.tail if self.area else 0

    def place(self, offset: int) -> int:
        """The byte of the device at a logical offset."""
        return self.area.place(offset) if self.area else offset

    def payload(self, entry: Entry) -> bytes:
        """The payload of an entry. Raises EntryError if its sum is wrong, as after a machine wrote over it."""
        found = self.area.read(entry.offset + ENTRY_HEAD_BYTES, entry.head.payload_bytes) if self.area else b""
        if not is_payload_right(entry.head, found):
            raise EntryError(0, "its payload does not have the sum in its head")
        return found


def recover(device: Device) -> Log:
    """Read a device. A machine may write to it meanwhile: it is read again if its start moved. Raises InputError."""
    for _ in range(_TRIES):
        before = superblocks(device)
        log = _opened(device, before)
        if superblocks(device) == before:
            break
    return log


def _opened(device: Device, both: tuple[Superblock | None, Superblock | None]) -> Log:
    current = max((block for block in both if block is not None), key=lambda block: block.turn, default=None)
    if current is None:
        fault = _too_small(device, "device", DEVICE_LEAST, 0) or _without_superblock(device)
        return Log(device.size, fault=fault)
    area = Area(device, current)
    fault = _judged(device, current)
    if fault is not None and (fault.reason != "too_small" or not current.is_possible()):
        return Log(device.size, area, both, fault=fault)
    # A copy that was cut short is read as far as it goes.
    log = _walked(area, device.size, both)
    return log if fault is None else replace(log, fault=fault)


def _too_small(device: Device, record: str, expected: int, offset: int) -> Fault | None:
    if device.size >= expected:
        return None
    return Fault("too_small", offset, record, f"the device has {device.size} bytes, expected at least {expected}")


def _without_superblock(device: Device) -> Fault | None:
    if is_blank(device):
        return None
    if has_magic(device):
        return Fault("damaged", 0, "superblocks", "one has the magic of a state device, and no digest is right")
    return Fault("foreign", 0, "superblocks", "neither is one of a state device, and the device is not all zero")


def _judged(device: Device, block: Superblock) -> Fault | None:
    record = f"superblock {block.turn}"
    if fault := _too_small(device, record, DEVICE_LEAST, block.place):
        return fault
    if block.least_reader > FORMAT_VERSION:
        why = f"it wants a reader of version {block.least_reader} or newer, and this one reads version {FORMAT_VERSION}"
        return Fault("newer", block.place, record, why)
    if not block.is_possible():
        return Fault("damaged", block.place, record, "its fields contradict each other")
    return _too_small(device, record, AREA_START + block.area_bytes, block.place)


def _walked(area: Area, size: int, both: tuple[Superblock | None, Superblock | None]) -> Log:
    current = area.superblock
    frames: list[Frame] = []
    found: list[Entry] = []
    fault = None
    offset, number = current.start, current.start_frame
    sequence, chain = current.start_sequence, current.start_chain
    while (frame := area.head(offset)) is not None and fault is None:
        content = area.content(frame) if _fits(frame, current) else None
        if content is None or (frame.number, frame.chain, frame.sequence) != (number, chain, sequence):
            break
        try:
            found += _entries_of(frame, content)
        except EntryError as error:
            place = area.place(offset + FRAME_HEAD_BYTES + error.place)
            fault = Fault("damaged", place, f"entry of frame {number}", str(error))
            break
        frames.append(frame)
        offset, number, chain = frame.end, number + 1, frame.digest
        sequence += frame.entries
    fault = fault or _behind(area, both, tail=offset, frame=number)
    return Log(size, area, both, tuple(frames), tuple(found), offset, fault)


def _fits(frame: Frame, current: Superblock) -> bool:
    return frame.end <= current.start + current.area_bytes


def _entries_of(frame: Frame, content: bytes) -> Iterator[Entry]:
    for place, head in entries(content, count=frame.entries, sequence=frame.sequence):
        yield Entry(head, frame.offset + FRAME_HEAD_BYTES + place, frame.number, frame.boot)


def _behind(area: Area, both: tuple[Superblock | None, Superblock | None], *, tail: int, frame: int) -> Fault | None:
    """The fault if the frame at the tail is not the one that was being written: something came after it."""
    current = area.superblock
    record = f"frame {frame}"
    if frame == current.start_frame and frame != 0:
        return Fault("damaged", area.place(tail), record, "the first frame of the log is not right, and it was flushed")
    end = current.start + current.area_bytes
    if None not in both or current.turn == 0:
        end = min(end, current.reach)
    later = next(area.later_heads(tail + BLOCK, end), None)
    if later is None:
        return None
    why = f"it is not right, and frame {later.number} at offset {area.place(later.offset)} was written after it"
    return Fault("damaged", area.place(tail), record, why)
