"""Minimal kernels and kernel modules in the real formats."""

from __future__ import annotations

import struct
from collections.abc import Sequence

RELEASE = "6.1.0-9-test"


def module(name: str, *, depends: Sequence[str] = (), release: str = RELEASE) -> bytes:
    """A relocatable ELF file whose only content is a `.modinfo` section."""
    texts = ("license=GPL", f"depends={','.join(depends)}", f"name={name}", f"vermagic={release} SMP mod_unload ")
    info = b"".join(text.encode() + b"\0" for text in texts)
    names = b"\0.modinfo\0.shstrtab\0"
    table_at = 64 + len(info) + len(names)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2
    )  # fmt: skip
    table = bytes(64)
    table += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, 64, len(info), 0, 0, 1, 0)
    table += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    return header + info + names + table


def bzimage(payload: bytes = b"\x7fELF", *, release: str = RELEASE, init_size: int = 1 << 20) -> bytes:
    """A bzImage that holds `payload` as its packed kernel and starts under UEFI."""
    setup_sectors = 2
    data = bytearray((setup_sectors + 1) * 512)
    data[0:2] = b"MZ"
    data[0x1F1] = setup_sectors
    data[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    struct.pack_into("<H", data, 0x206, 0x020F)
    struct.pack_into("<H", data, 0x20E, 0x300 - 0x200)
    struct.pack_into("<I", data, 0x3C, 0x80)
    data[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<H", data, 0x236, 0x3F)
    struct.pack_into("<II", data, 0x248, 16, len(payload))
    struct.pack_into("<I", data, 0x260, init_size)
    text = f"{release} (builder@host) #1 SMP\0".encode()
    data[0x300 : 0x300 + len(text)] = text
    return bytes(data) + bytes(16) + payload
