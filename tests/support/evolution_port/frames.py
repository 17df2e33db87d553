"""Lines and blobs of the evolution port. Pure: bytes to messages and back.

A message is one JSON object in a line of at most 65,536 bytes; a member `blob` announces raw bytes right after it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import google_crc32c

LINE_LIMIT = 65_536
BLOB_LIMIT = 1_048_576
RESYNC = b"\xff"
"""Outside a blob: drops the line in progress and makes the appliance greet again."""

Message: TypeAlias = dict[str, Any]

_CRC32C_POLYNOMIAL = 0x82F63B78
_HEX8 = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class BlobHeader:
    """What a message says of the raw bytes that follow it."""

    size: int
    crc32c: str


def parse_line(line: bytes) -> Message | None:
    """The JSON object in a line, with or without its newline; None for anything else."""
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def blob_header(message: Message) -> BlobHeader | None:
    """The blob that follows a message; None when none does, or the member is not well formed."""
    blob = message.get("blob")
    if not isinstance(blob, dict):
        return None
    size, crc = blob.get("bytes"), blob.get("crc32c")
    # bool is an int in Python, never in the protocol.
    if type(size) is not int or not 1 <= size <= BLOB_LIMIT or not isinstance(crc, str) or not _HEX8.fullmatch(crc):
        return None
    return BlobHeader(size, crc)


def encode(message: Message, blob: bytes | None = None) -> bytes:
    """The message's line, its `blob` member filled in when a blob follows; the blob itself is not included.

    Nothing here enforces the protocol's limits: a harness must also be able to break them.
    """
    if blob is not None:
        message = {**message, "blob": {"bytes": len(blob), "crc32c": crc32c(blob)}}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def crc32c(data: bytes) -> str:
    """CRC-32C (Castagnoli, reflected, as in RFC 3720 B.4) as 8 hex digits."""
    return f"{google_crc32c.value(data):08x}"
