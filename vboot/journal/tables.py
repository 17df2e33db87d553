"""The structures of spec/journal.md. Generated from spec/journal.toml by spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Field:
    """A field of a structure, little-endian: where it is inside, and how long."""

    name: str
    offset: int
    bytes: int
    type: Literal["u8", "u32", "u64", "f64", "bytes"]


SUPERBLOCK_MAGIC = b"vb-state"
"""The first bytes of a superblock."""
FRAME_MAGIC = b"vb-frame"
"""The first bytes of a frame."""
ENTRY_MAGIC = b"VBJ2"
"""The first bytes of an entry."""
FORMAT_VERSION = 1
"""Version of the format that is written, and the newest that is read (version)."""
BLOCK = 4096
"""A block: superblocks and frames begin at multiples of it (bytes)."""
SUPERBLOCK_BYTES = 512
"""Length of a superblock; the rest of its block is zero (bytes)."""
AREA_START = 8192
"""Where the log area begins, behind the blocks of the two superblocks (bytes)."""
DEVICE_LEAST = 16777216
"""Smallest device (bytes)."""
DEVICE_MOST = 68719476736
"""Bytes of a device that are used at most; the rest of a larger one is not (bytes)."""
SIZE_BASE = 67108864
"""Part of the default size that does not depend on the model (bytes)."""
SIZE_FACTOR = 4
"""How often the default size has room for the bytes of the model, besides (times)."""
FRAME_HEAD_BYTES = 160
"""Length of the head of a frame (bytes)."""
ENTRY_HEAD_BYTES = 168
"""Length of the head of an entry (bytes)."""
ENTRY_ALIGNMENT = 8
"""An entry is padded with zeros to a multiple of this (bytes)."""
NOTES_BYTES = 65536
"""Space that stays free behind room for an image, for entries that need no room of their own (bytes)."""
REACH_STEP = 16777216
"""By how much the reach of the log is moved on (bytes)."""
ZEROS_AHEAD = 262144
"""How much space that was never written may be filled with zeros behind a frame (bytes)."""
ZERO_CHECK_WHOLE = 1073741824
"""A device up to this size is read as a whole before it is formatted (bytes)."""
ZERO_CHECK_EDGE = 67108864
"""Of a larger device: so much of its beginning and of its end (bytes)."""
ZERO_CHECK_STEP = 1048576
"""And the first block in each so many bytes between them (bytes)."""
SUPERBLOCK = (
    Field("magic", 0, 8, "bytes"),
    Field("version", 8, 4, "u32"),
    Field("least_reader", 12, 4, "u32"),
    Field("turn", 16, 8, "u64"),
    Field("device_id", 24, 16, "bytes"),
    Field("salt", 40, 32, "bytes"),
    Field("model", 72, 32, "bytes"),
    Field("file", 104, 32, "bytes"),
    Field("area_offset", 136, 8, "u64"),
    Field("area_bytes", 144, 8, "u64"),
    Field("start", 152, 8, "u64"),
    Field("start_frame", 160, 8, "u64"),
    Field("start_sequence", 168, 8, "u64"),
    Field("start_chain", 176, 32, "bytes"),
    Field("reach", 208, 8, "u64"),
    Field("reserved", 216, 264, "bytes"),
    Field("digest", 480, 32, "bytes"),
)
"""The fields of a superblock."""
FRAME = (
    Field("magic", 0, 8, "bytes"),
    Field("number", 8, 8, "u64"),
    Field("offset", 16, 8, "u64"),
    Field("sequence", 24, 8, "u64"),
    Field("content_bytes", 32, 8, "u64"),
    Field("entries", 40, 4, "u32"),
    Field("zero", 44, 4, "u32"),
    Field("boot", 48, 8, "u64"),
    Field("nonce", 56, 16, "bytes"),
    Field("content_sum", 72, 16, "bytes"),
    Field("chain", 88, 32, "bytes"),
    Field("reserved", 120, 8, "bytes"),
    Field("digest", 128, 32, "bytes"),
)
"""The fields of the head of a frame."""
ENTRY = (
    Field("magic", 0, 4, "bytes"),
    Field("crc", 4, 4, "u32"),
    Field("kind", 8, 1, "u8"),
    Field("flags", 9, 1, "u8"),
    Field("zero", 10, 2, "bytes"),
    Field("changed_tensors", 12, 4, "u32"),
    Field("params_crc", 16, 4, "u32"),
    Field("blob_crc", 20, 4, "u32"),
    Field("payload_sum", 24, 4, "u32"),
    Field("edits", 28, 4, "u32"),
    Field("sequence", 32, 8, "u64"),
    Field("generation", 40, 8, "u64"),
    Field("fingerprint", 48, 8, "u64"),
    Field("promoted", 56, 8, "u64"),
    Field("lease_until_us", 64, 8, "u64"),
    Field("target", 72, 8, "u64"),
    Field("content_bytes", 80, 8, "u64"),
    Field("changed_bytes", 88, 8, "u64"),
    Field("payload_bytes", 96, 8, "u64"),
    Field("id", 104, 16, "bytes"),
    Field("upload", 120, 16, "bytes"),
    Field("origin", 136, 16, "bytes"),
    Field("confidence", 152, 8, "f64"),
    Field("uptime_us", 160, 8, "u64"),
)
"""The fields of the head of an entry."""
ENTRY_KINDS: Mapping[int, str] = {
    1: "mutate",
    2: "rollback",
    3: "promote",
    4: "lease_expired",
    5: "renew",
    6: "image",
}
"""What an entry is, by its number."""
