"""What a bridge and its child say to each other over a stream socket: numbered packets. Pure.

A packet is a header of sixteen bytes (u32 kind, u32 bytes of data, u64 number; little-endian) and its data. Each call
is answered by one packet of its number, in order: DONE with what it gave, or FAILED with a sentence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("<IIQ")
DATA_LIMIT = 1 << 28
"""The most bytes of data; a layout of 65,536 tensors has about ten millions."""
LOADED = 0
"""Number of the packet that tells, unasked, how loading went."""


class Kind(IntEnum):
    """What a packet is: the first two are answers, the others calls of the C function of that name."""

    DONE = 0
    FAILED = 1
    REQUEST = 2
    EXECUTE_PIXELS = 3
    GET_RESULT = 4
    GET_STATS = 5
    DATA_LAYOUT = 6
    FAULT = 7
    """For tests: what to suffer at the next call, "segv-before", "segv-after" or "hang"."""
    NO_LIBRARY = 8
    """How loading failed, instead of FAILED, when it was not for the model."""


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
    """Take the first packet off the buffer; None while it is not all there. Raises ValueError for nonsense."""
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
