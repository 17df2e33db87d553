"""Names in FAT directories: the short one of 8 + 3 characters, and the long one in entries before it. Pure.

Microsoft, "FAT: General Overview of On-Disk Format", version 1.03, and its supplement on long names.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence

from vboot.errors import InputError

ENTRY_BYTES = 32
LONG_NAME = 0x0F
"""The attribute of an entry that holds a part of a long name."""
_UNITS = 13
"""An entry holds so many UTF-16 code units of a long name."""
_MAX_UNITS = 255
_SHORT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_NOT_IN_LONG = frozenset('"*/:<>?\\|')
_LAST = 0x40


def entries(name: str, taken: Container[bytes]) -> tuple[bytes, bytes]:
    """The entries of the long name, empty where none is needed, and the 11 bytes of the short name.

    `taken` are the short names of the folder. Raises InputError for a name that FAT cannot hold.
    """
    units = len(name.encode("utf-16-le", "surrogatepass")) // 2
    wrong = set(name) & _NOT_IN_LONG or [each for each in name if ord(each) < 32 or 0xD800 <= ord(each) < 0xE000]
    if not name or units > _MAX_UNITS or wrong or name.endswith((".", " ")):
        raise InputError(f"expected a file name that FAT32 can hold, got {name!r}", remedy="choose another name")
    short = _plain(name)
    if short is not None and short not in taken:
        return b"", short
    short = _numbered(name, taken)
    return _long_entries(name, checksum(short)), short


def checksum(short: bytes) -> int:
    """The checksum of a short name that every part of its long name carries."""
    total = 0
    for byte in short:
        total = ((total >> 1) + (total << 7) + byte) & 0xFF
    return total


def long_name(parts: Sequence[bytes], short: bytes) -> str | None:
    """The long name in the entries that precede one; None if there are none, or they belong to another entry."""
    count = len(parts)
    orders = [part[0] for part in parts]
    if not parts or orders != [count | _LAST, *range(count - 1, 0, -1)]:
        return None
    if any(part[13] != checksum(short) for part in parts):
        return None
    units = b"".join(part[1:11] + part[14:26] + part[28:32] for part in reversed(parts))
    text = units.decode("utf-16-le", "replace").partition("\0")[0]
    return text or None


def short_name(short: bytes) -> str:
    """A short name for people and paths: "BOOTX64.EFI"."""
    base = short[:8].decode("latin-1").rstrip(" ")
    extension = short[8:].decode("latin-1").rstrip(" ")
    return f"{base}.{extension}" if extension else base


def _plain(name: str) -> bytes | None:
    """The short name that says all of the name, if there is one."""
    base, dot, extension = name.partition(".")
    if not 1 <= len(base) <= 8 or len(extension) > 3 or (dot and not extension):
        return None
    if not set(base + extension) <= _SHORT:
        return None
    return base.ljust(8).encode() + extension.ljust(3).encode()


def _numbered(name: str, taken: Container[bytes]) -> bytes:
    """A free short name made from the beginning of the name, with ~N at its end."""
    base, _, extension = name.upper().strip(".").rpartition(".") if "." in name.strip(".") else (name.upper(), "", "")
    cleaned = "".join(each if each in _SHORT else "_" for each in base if each not in ". ")
    suffix = "".join(each if each in _SHORT else "_" for each in extension if each != " ")[:3]
    for number in range(1, 1_000_000):
        tail = f"~{number}"
        short = (cleaned[: 8 - len(tail)] + tail).ljust(8).encode() + suffix.ljust(3).encode()
        if short not in taken:
            return short
    raise InputError(f"too many files with a name like {name!r} in one folder")


def _long_entries(name: str, short_checksum: int) -> bytes:
    units = name.encode("utf-16-le") + b"\0\0"
    count = -(-(len(units) - 2) // (2 * _UNITS))
    units = units[: 2 * _UNITS * count].ljust(2 * _UNITS * count, b"\xff")
    made = []
    for number in range(count, 0, -1):
        part = units[2 * _UNITS * (number - 1) : 2 * _UNITS * number]
        order = number | (_LAST if number == count else 0)
        made.append(
            struct.pack(
                "<B10sBBB12sH4s", order, part[:10], LONG_NAME, 0, short_checksum, part[10:22], 0, part[22:]
            )
        )  # fmt: skip
    return b"".join(made)
