"""Reads tests/vectors/rts: builds the bytes of each vector by the rules of the README there."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "vectors" / "rts"

ELF = bytes.fromhex(
    "7f454c46020101000000000000000000 02003e00010000000000000000000000"
    "00000000000000000000000000000000 00000000400038000000400000000000"
)
GGUF = bytes.fromhex(
    "47475546 03000000 0100000000000000 0100000000000000"
    "1400000000000000 67656e6572616c2e617263686974656374757265 08000000 0400000000000000 74657374"
    "0100000000000000 74 01000000 0800000000000000 00000000 0000000000000000" + "00" * 27 + "0000803f" * 8
)
BINARY_SIZES = {"padded": 3584, "unpadded": 64}


@dataclass(frozen=True)
class Vector:
    """One line of vectors.tsv."""

    name: str
    data: bytes
    device: bool
    key: bool
    verdict: str
    field: str


def base_file(base: str) -> bytes:
    """The unedited file `padded` or `unpadded`."""
    size = BINARY_SIZES[base]
    binary = ELF.ljust(size, b"\0")
    digests = hashlib.sha256(binary).digest() + hashlib.sha256(GGUF).digest()
    numbers = struct.pack(">4sIQQQQ", b"RTS\x01", 1, 512, size, 512 + size, len(GGUF))
    return (numbers + digests).ljust(512, b"\0") + binary + GGUF


def apply_edits(data: bytes, edits: str) -> bytes:
    """Apply `OFFSET:HEX`, `truncate:LENGTH` and `append:HEX` in order; `-` is none."""
    edited = bytearray(data)
    for edit in [] if edits == "-" else edits.split(" "):
        verb, _, argument = edit.partition(":")
        if verb == "truncate":
            del edited[int(argument) :]
        elif verb == "append":
            edited += bytes.fromhex(argument)
        else:
            new = bytes.fromhex(argument)
            start = int(verb)
            assert start + len(new) <= len(edited), edit
            edited[start : start + len(new)] = new
    return bytes(edited)


def load_vectors() -> list[Vector]:
    """All lines of vectors.tsv."""
    vectors = []
    for line in (FOLDER / "vectors.tsv").read_text("ascii").splitlines()[1:]:
        name, base, edits, medium, key, verdict, field = line.split("\t")
        data = apply_edits(base_file(base), edits)
        vectors.append(Vector(name, data, medium == "device", key == "test", verdict, field))
    return vectors
