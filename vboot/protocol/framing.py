"""Lines and blobs of the evolution protocol, for a client. No input or output: bytes to messages and messages to bytes.

A message is one JSON object in one line of at most `LINE_LIMIT` bytes, newline included. A member `blob` announces the
number and the CRC-32C of the raw bytes that follow the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import google_crc32c
import numpy as np

from vboot.errors import InputError
from vboot.protocol.tables import BLOB_LIMIT, LINE_LIMIT

RESYNC = b"\xff"
"""A byte that, outside a blob, makes the machine drop an incomplete line and greet again."""

_HEX8 = re.compile(r"[0-9a-f]{8}")
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Message:
    """A received JSON object, and the raw bytes that followed it, if any; their CRC-32C was correct."""

    members: Mapping[str, Any]
    blob: bytes | None = None


@dataclass(frozen=True)
class Spoilt:
    """Received bytes that are not a message, and why. The bytes after them may be a message or the rest of a blob."""

    why: str


Bytes: TypeAlias = bytes | memoryview
"""Bytes to be sent: a memoryview is a part of others that is not copied."""


Incoming: TypeAlias = Message | Spoilt


class Reader:
    """Splits received data, in pieces of any size, into messages.

    It raises nothing, and keeps at most one line and one blob in memory.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._skipping = False
        self._announced: tuple[dict[str, Any], int, int] | None = None
        self._blob = bytearray()

    @property
    def in_blob(self) -> bool:
        """Whether announced raw bytes have not all arrived yet."""
        return self._announced is not None

    def feed(self, data: bytes) -> Iterator[Incoming]:
        """Take in all of `data` and yield what it completes. Exhaust the iterator before the next call."""
        position = 0
        while position < len(data):
            if self._announced is None:
                position, incoming = self._take_line(data, position)
            else:
                position, incoming = self._take_blob(data, position, *self._announced)
            if incoming is not None:
                yield incoming

    def _take_line(self, data: bytes, position: int) -> tuple[int, Incoming | None]:
        newline = data.find(b"\n", position)
        end = len(data) if newline < 0 else newline + 1
        if self._skipping or len(self._line) + end - position > LINE_LIMIT:
            reported, self._skipping = self._skipping, newline < 0
            self._line.clear()
            return end, None if reported else Spoilt(f"a line of more than {LINE_LIMIT} bytes")
        piece = data[position:end]
        if self._line or newline < 0:
            self._line += piece
            if newline < 0:
                return end, None
            piece = bytes(self._line)
            self._line.clear()
        return end, self._finish_line(piece)

    def _finish_line(self, line: bytes) -> Incoming | None:
        try:
            members = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            return Spoilt(f"a line that is not JSON: {line[:60]!r}")
        if not isinstance(members, dict):
            return Spoilt(f"a line that is not a JSON object: {line[:60]!r}")
        if "blob" not in members:
            return Message(members)
        announced = _announcement(members.pop("blob"))
        if announced is None:
            return Spoilt(f"a blob whose announcement is not {{bytes: 1 to {BLOB_LIMIT}, crc32c: 8 hex}}")
        self._announced = (members, *announced)
        return None

    def _take_blob(
        self, data: bytes, position: int, members: dict[str, Any], size: int, crc: int
    ) -> tuple[int, Incoming | None]:
        end = min(len(data), position + size - len(self._blob))
        self._blob += data[position:end]
        if len(self._blob) < size:
            return end, None
        blob = bytes(self._blob)
        self._blob.clear()
        self._announced = None
        if google_crc32c.value(blob) != crc:
            return end, Spoilt(f"a blob of {size} bytes whose CRC-32C is not the announced one")
        return end, Message(members, blob)


def encode(members: Mapping[str, Any], blob: Bytes | None = None) -> bytes:
    """The bytes of a message: its line and its blob. Raises InputError if it exceeds a limit or is not JSON."""
    return encode_line(members, blob) + (blob or b"")


def encode_line(members: Mapping[str, Any], blob: Bytes | None = None) -> bytes:
    """The line of a message, after which its blob is sent. Raises InputError if it exceeds a limit or is not JSON."""
    if blob is not None:
        if not 1 <= len(blob) <= BLOB_LIMIT:
            raise InputError(f"a blob of {len(blob)} bytes cannot be sent", remedy=f"send 1 to {BLOB_LIMIT} bytes")
        members = {**members, "blob": {"bytes": len(blob), "crc32c": f"{crc32c(blob):08x}"}}
    line = _dump(members) + b"\n"
    if len(line) > LINE_LIMIT:
        raise InputError(
            f"a request of {len(line)} bytes does not fit a line of {LINE_LIMIT}", remedy="send less at once"
        )
    return line


def crc32c(data: Bytes) -> int:
    """The CRC-32C of bytes, without a copy of them."""
    # The package takes bytes and arrays, but no memoryview.
    return int(google_crc32c.value(data if isinstance(data, bytes) else np.frombuffer(data, np.uint8)))


def _dump(members: Mapping[str, Any]) -> bytes:
    try:
        return _JSON.encode(members).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"a request cannot be written as JSON ({error})", remedy="use JSON values only") from error


def _announcement(blob: object) -> tuple[int, int] | None:
    """Size and CRC-32C of the bytes that follow; None if the member is not valid."""
    if not isinstance(blob, dict) or blob.keys() != {"bytes", "crc32c"}:
        return None
    size, crc = blob["bytes"], blob["crc32c"]
    # bool is an int in Python, never in the protocol.
    if type(size) is not int or not 1 <= size <= BLOB_LIMIT:
        return None
    if not isinstance(crc, str) or not _HEX8.fullmatch(crc):
        return None
    return size, int(crc, 16)
