"""Judges an RTS file by spec/rts.md."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.stranger import gguf_reader

HEADER = 512
ZERO = bytes(32)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


@dataclass(frozen=True)
class RefusedError(Exception):
    """The first field at fault."""

    field: str
    offset: int


def judge(data: bytes, *, is_device: bool = False, key: bytes | None = None) -> bool:
    """Whether the file can be booted. Raises RefusedError."""

    def check(condition: bool, field: str, offset: int) -> None:
        if not condition:
            raise RefusedError(field, offset)

    def number(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "big")

    check(len(data) >= HEADER, "header", 0)
    check(data[:4] == b"RTS\x01", "magic", 0)
    check(number(4, 4) == 1, "version", 4)
    check(number(8) == HEADER, "binary_offset", 8)
    binary, tensor_offset, tensors = number(16), number(24), number(32)
    check(HEADER + binary < 2**64, "binary_size", 16)
    check(tensor_offset == HEADER + binary, "tensor_offset", 24)
    end = tensor_offset + tensors
    check(end < 2**64, "tensor_size", 32)
    check(tensor_offset <= len(data), "binary_size", 16)
    check(end <= len(data), "tensor_size", 32)
    check(is_device or end == len(data), "trailing", end)
    digests = {"binary_sha256": data[40:72], "tensor_sha256": data[72:104]}
    key_id, signature = data[104:136], data[144:208]
    check((signature == bytes(64)) == (key_id == ZERO), "signature", 144)
    for at in range(208, HEADER):
        check(data[at] == 0, "reserved", at)
    if key is not None:
        check(hashlib.sha256(key).digest() == key_id, "key_id", 104)
        check(digests["binary_sha256"] != ZERO, "binary_sha256", 40)
        check(digests["tensor_sha256"] != ZERO, "tensor_sha256", 72)
        check(_is_signed(data[:144], signature, key), "signature", 144)
    check(binary >= 16 and data[HEADER : HEADER + 4] == b"\x7fELF", "binary", HEADER)
    sections = {"binary_sha256": data[HEADER:tensor_offset], "tensor_sha256": data[tensor_offset:end]}
    try:
        gguf_reader.judge(sections["tensor_sha256"])
    except gguf_reader.BrokenRuleError as broken:
        raise RefusedError("tensors", tensor_offset + broken.offset) from None
    for (field, digest), offset in zip(digests.items(), (40, 72), strict=True):
        check(digest in (ZERO, hashlib.sha256(sections[field]).digest()), field, offset)
    return tensor_offset % 4096 == 0


def _is_signed(message: bytes, signature: bytes, key: bytes) -> bool:
    if int.from_bytes(signature[32:], "little") >= GROUP_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
