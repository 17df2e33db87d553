"""The header of an RTS container, version 1: 512 bytes in front of an executable and a GGUF model.

RTS is the project's container format: executable and model in one file (spec/rts.md).

Layout (integers big-endian): magic "RTS\\x01", u32 version 1, u64 binary offset 512, u64 binary size N, u64 tensor
offset 512 + N, u64 tensor size M, SHA-256 of the binary section, SHA-256 of the tensor section (zero: absent), key id
(SHA-256 of the raw Ed25519 public key; zero: unsigned), u64 security version, Ed25519 signature over bytes 0..144,
304 zero bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import InputError

HEADER_SIZE = 512
MAGIC = b"RTS\x01"
VERSION = 1
SIGNED_SIZE = 144
"""Number of bytes at the start of the header that the signature covers."""
SECTION_ALIGNMENT = 4096
"""The tensor section starts at a multiple of this in a bootable file, so that it can be mapped in place."""

ABSENT_DIGEST = bytes(32)
NO_KEY = bytes(32)
NO_SIGNATURE = bytes(64)

ELF_MAGIC = b"\x7fELF"
ELF_IDENT_SIZE = 16
GGUF_MAGIC = b"GGUF"

_FIELDS = struct.Struct(">4sIQQQQ32s32s32sQ64s")
_U64_MAX = 2**64 - 1

FIELD_OFFSETS = {
    "magic": 0,
    "version": 4,
    "binary_offset": 8,
    "binary_size": 16,
    "tensor_offset": 24,
    "tensor_size": 32,
    "binary_sha256": 40,
    "tensor_sha256": 72,
    "key_id": 104,
    "security_version": 136,
    "signature": 144,
    "reserved": 208,
}
"""Byte offset of every header field; the names are those that errors and the shared test vectors use."""


class RtsError(InputError):
    """An RTS file breaks a rule.

    Attributes: field (a name in FIELD_OFFSETS, or header, binary, tensors, trailing), offset (byte in the file), value
    (what the file contains), expected, path (None until the file is known). The text names them all.
    """

    def __init__(self, field: str, *, offset: int, value: str, expected: str, path: Path | None = None) -> None:
        where = f"{path}: " if path else ""
        remedy = "build the file again or fetch it again from its source" if path else None
        super().__init__(f"{where}{field} at offset {offset} is {value}, expected {expected}", remedy=remedy)
        self.field = field
        self.offset = offset
        self.value = value
        self.expected = expected
        self.path = path

    def in_file(self, path: Path) -> RtsError:
        """The same error, naming the file."""
        return RtsError(self.field, offset=self.offset, value=self.value, expected=self.expected, path=path)


@dataclass(frozen=True)
class RtsHeader:
    """The fields of a header: sizes in bytes, digests and key id of 32 bytes, signature of 64 bytes."""

    binary_size: int
    tensor_size: int
    binary_sha256: bytes = ABSENT_DIGEST
    tensor_sha256: bytes = ABSENT_DIGEST
    key_id: bytes = NO_KEY
    security_version: int = 0
    signature: bytes = NO_SIGNATURE

    @property
    def tensor_offset(self) -> int:
        """First byte of the tensor section."""
        return HEADER_SIZE + self.binary_size

    @property
    def total_size(self) -> int:
        """Bytes of header, binary section and tensor section together."""
        return self.tensor_offset + self.tensor_size

    @property
    def signed(self) -> bool:
        """Whether the header carries a signature (which parsing does not check)."""
        return self.key_id != NO_KEY

    @property
    def bootable(self) -> bool:
        """Whether the tensor section starts on a page: required for booting, not for reading."""
        return self.tensor_offset % SECTION_ALIGNMENT == 0


def pack_header(header: RtsHeader) -> bytes:
    """Return the 512 bytes of `header`; its first SIGNED_SIZE bytes are what a signature covers."""
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        HEADER_SIZE,
        header.binary_size,
        header.tensor_offset,
        header.tensor_size,
        header.binary_sha256,
        header.tensor_sha256,
        header.key_id,
        header.security_version,
        header.signature,
    )
    return fields.ljust(HEADER_SIZE, b"\0")


def parse_header(head: bytes, *, file_size: int, block_device: bool = False) -> RtsHeader:
    """Read a header and check every rule that needs no section bytes.

    `head` is the first 512 bytes of a file (or block device) of `file_size` bytes; a device may be longer than the
    sections, a file may not. Raises RtsError for the first broken rule, in the order of the fields.
    """
    if len(head) < HEADER_SIZE or file_size < HEADER_SIZE:
        length = min(len(head), file_size)
        raise RtsError("header", offset=0, value=f"{length} bytes long", expected=f"{HEADER_SIZE} bytes")
    magic, version, binary_offset, n, tensor_offset, m, binary_sha256, tensor_sha256, key_id, security, signature = (
        _FIELDS.unpack_from(head)
    )
    _expect("magic", magic.hex(" "), MAGIC.hex(" "))
    _expect("version", version, VERSION)
    _expect("binary_offset", binary_offset, HEADER_SIZE)
    if n > _U64_MAX - HEADER_SIZE:
        raise _wrong("binary_size", n, f"at most {_U64_MAX - HEADER_SIZE}")
    _expect("tensor_offset", tensor_offset, HEADER_SIZE + n)
    if m > _U64_MAX - tensor_offset:
        raise _wrong("tensor_size", m, f"at most {_U64_MAX - tensor_offset}")
    header = RtsHeader(n, m, binary_sha256, tensor_sha256, key_id, security, signature)
    _check_extent(header, file_size=file_size, block_device=block_device)
    _check_signature_presence(header)
    _check_reserved(head)
    return header


def check_sections(binary_start: bytes, tensor_start: bytes, header: RtsHeader) -> None:
    """Check the magic of both sections, given their first 16 and first 4 bytes (fewer if a section is shorter).

    Raises RtsError for a binary section that is not an ELF or a tensor section that is not a GGUF.
    """
    if len(binary_start) < ELF_IDENT_SIZE:
        raise RtsError(
            "binary",
            offset=HEADER_SIZE,
            value=f"{len(binary_start)} bytes long",
            expected=f"an ELF of at least {ELF_IDENT_SIZE} bytes",
        )
    if binary_start[:4] != ELF_MAGIC:
        raise RtsError("binary", offset=HEADER_SIZE, value=binary_start[:4].hex(" "), expected="7f 45 4c 46 (an ELF)")
    if tensor_start[:4] != GGUF_MAGIC:
        value = tensor_start[:4].hex(" ") or "empty"
        raise RtsError("tensors", offset=header.tensor_offset, value=value, expected="47 47 55 46 (a GGUF)")


def check_digest(field: str, *, stated: bytes, actual: bytes) -> None:
    """Raise RtsError when a stated SHA-256 is present and is not that of the section."""
    if stated not in (ABSENT_DIGEST, actual):
        raise _wrong(field, stated.hex(), f"{actual.hex()} (the section's SHA-256)")


def _check_extent(header: RtsHeader, *, file_size: int, block_device: bool) -> None:
    if header.tensor_offset > file_size:
        raise _wrong("binary_size", header.binary_size, f"at most {file_size - HEADER_SIZE} in {file_size} bytes")
    if header.total_size > file_size:
        room = file_size - header.tensor_offset
        raise _wrong("tensor_size", header.tensor_size, f"at most {room} in {file_size} bytes")
    if header.total_size < file_size and not block_device:
        surplus = file_size - header.total_size
        raise RtsError(
            "trailing", offset=header.total_size, value=f"{surplus} bytes after the sections", expected="the end"
        )


def _check_signature_presence(header: RtsHeader) -> None:
    if header.signed and header.signature == NO_SIGNATURE:
        raise _wrong("signature", "all zero", "nonzero, because the key id is nonzero")
    if not header.signed and header.signature != NO_SIGNATURE:
        raise _wrong("signature", f"{header.signature[:8].hex()}...", "all zero, because the key id is zero")


def _check_reserved(head: bytes) -> None:
    start = FIELD_OFFSETS["reserved"]
    for offset in range(start, HEADER_SIZE):
        if head[offset]:
            raise RtsError("reserved", offset=offset, value=f"{head[offset]:#04x}", expected="zero")


def _expect(field: str, value: object, expected: object) -> None:
    if value != expected:
        raise _wrong(field, value, str(expected))


def _wrong(field: str, value: object, expected: str) -> RtsError:
    return RtsError(field, offset=FIELD_OFFSETS[field], value=str(value), expected=expected)
