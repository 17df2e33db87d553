"""Packets between a bridge and its child process, on a stream socket. No input or output here.

A packet is a header of sixteen bytes (u32 kind, u32 size of the data in bytes, u64 number; little-endian) and its data.
Each call is answered by one packet with the same number, in order: DONE with the result, or FAILED with a sentence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("<IIQ")
DATA_LIMIT = 1 << 28
"""Largest data of a packet in bytes; the layout of 65,536 tensors has about ten million."""
LOADED = 0
"""Number of the packet that the child sends by itself when it has loaded the model, or failed to."""


class Kind(IntEnum):
    """Kind of a packet: DONE, FAILED and NO_LIBRARY are answers, the others call the C function of that name."""

    DONE = 0
    FAILED = 1
    REQUEST = 2
    EXECUTE_PIXELS = 3
    GET_RESULT = 4
    GET_STATS = 5
    DATA_LAYOUT = 6
    FAULT = 7
    """For tests: the fault at the next call, "segv-before", "segv-after" or "hang"."""
    REQUEST_IN_SLOT = 9
    """REQUEST, where the data says in which slot of the shared memory the message is."""
    NO_LIBRARY = 8
    """Loading failed because of the library, not because of the model."""


@dataclass(frozen=True)
class Packet:
    """One call or answer."""

    kind: Kind
    number: int
    data: bytes = b""


def encode(packet: Packet) -> bytes:
    """The bytes of a packet."""
    return _HEADER.pack(packet.kind, len(packet.data), packet.number) + packet.data


def cut(buffer: bytearray) -> Packet | None:
    """Remove the first packet from the buffer and return it; None if it is incomplete. Raises ValueError if invalid."""
    if len(buffer) < _HEADER.size:
        return None
    kind, size, number = _HEADER.unpack_from(buffer)
    if size > DATA_LIMIT:
        raise ValueError(f"a packet of {size} bytes")
    end = _HEADER.size + size
    if len(buffer) < end:
        return None
    packet = Packet(Kind(kind), number, bytes(memoryview(buffer)[_HEADER.size : end]))
    del buffer[:end]
    return packet
