"""Memory that a bridge shares with its child process, so that messages with a blob are not sent through a socket.

A message lies in a slot of its own until it is answered. If no slot is free, it goes through the socket.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from vboot.protocol.tables import BLOB_LIMIT, LINE_LIMIT

SLOTS = 8
"""More than a client sends ahead; their memory is used from the first slot on, so few cost any."""
_SLOT_BYTES = 2 * mmap.PAGESIZE + LINE_LIMIT + BLOB_LIMIT
_PLACE = struct.Struct("<II")


class Slots:
    """The parent's side: which slots are free, and what is in the others."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("bridge messages", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, SLOTS * _SLOT_BYTES)
        self._memory = mmap.mmap(self.descriptor, 0)
        self._free = list(reversed(range(SLOTS)))
        self._used: dict[int, int] = {}

    def put(self, number: int, line: bytes, blob: bytes | memoryview) -> bytes | None:
        """Write the message of the call with this number to a free slot; where it is, None if there is no slot."""
        size = len(line) + len(blob)
        if not self._free or size > _SLOT_BYTES:
            return None
        slot = self._used[number] = self._free.pop()
        start = slot * _SLOT_BYTES
        self._memory[start : start + len(line)] = line
        self._memory[start + len(line) : start + size] = blob
        return _PLACE.pack(start, size)

    def release(self, number: int) -> None:
        """Free the slot of the call with this number, if it has one: it was answered."""
        slot = self._used.pop(number, None)
        if slot is not None:
            self._free.append(slot)

    def close(self) -> None:
        """Release the memory; the child has its own mapping."""
        self._memory.close()
        os.close(self.descriptor)


class SlotReader:
    """The child's side."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def find(self, place: bytes) -> tuple[int, int]:
        """Address and size of the message at this place. Raises ValueError if it lies outside the memory."""
        start, size = _PLACE.unpack(place)
        if start + size > len(self._memory):
            raise ValueError(f"a message of {size} bytes at {start}, outside the shared memory")
        return self._address + start, size
