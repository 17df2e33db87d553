"""The header of an x86 bzImage (Documentation/arch/x86/boot.rst in the Linux source) and the kernel packed inside it.

Pure functions on bytes. All numbers are little-endian.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from dataclasses import dataclass

from vboot.errors import InputError

SETUP_SECTORS_AT = 0x1F1
BOOT_FLAG_AT = 0x1FE
MAGIC_AT = 0x202
PROTOCOL_AT = 0x206
KERNEL_VERSION_AT = 0x20E
XLOADFLAGS_AT = 0x236
PAYLOAD_AT = 0x248
INIT_SIZE_AT = 0x260
HEADER_END = 0x264
SECTOR = 512

# 2.12 (Linux 3.8) introduced xloadflags; every field read here is older.
OLDEST_PROTOCOL = 0x020C
XLF_KERNEL_64 = 1
PE_OFFSET_AT = 0x3C

MAX_UNPACKED = 1 << 30
IKCONFIG_START, IKCONFIG_END = b"IKCFG_ST", b"IKCFG_ED"

_PACKERS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89LZO": "lzo",
    b"\x7fELF": "none",
}


@dataclass(frozen=True)
class BzImage:
    """What a boot loader and the builder need to know about a kernel.

    `release` is that of `uname -r`; `init_size` the memory in bytes that unpacking and starting it takes;
    `payload` the offset and size of the compressed kernel in the file.
    """

    release: str
    protocol: tuple[int, int]
    init_size: int
    payload: tuple[int, int]
    efi_stub: bool


def parse(data: bytes) -> BzImage:
    """Read the header of a 64-bit bzImage.

    Raises:
        InputError: it is not a bzImage, is truncated, or a field points outside of it.
    """
    if len(data) < HEADER_END or data[MAGIC_AT:][:4] != b"HdrS" or data[BOOT_FLAG_AT:][:2] != b"\x55\xaa":
        raise InputError(
            "not a bzImage: no HdrS at offset 0x202", remedy="give the compressed kernel, arch/x86/boot/bzImage"
        )
    protocol = _u16(data, PROTOCOL_AT)
    if protocol < OLDEST_PROTOCOL:
        raise InputError(f"bzImage: boot protocol {protocol:#06x} at offset 0x206 is older than {OLDEST_PROTOCOL:#06x}")
    if not _u16(data, XLOADFLAGS_AT) & XLF_KERNEL_64:
        raise InputError("bzImage: a 32-bit kernel (bit 0 of xloadflags at offset 0x236 is clear), expected x86-64")
    # Zero sectors mean four, for compatibility with very old kernels.
    setup_end = ((data[SETUP_SECTORS_AT] or 4) + 1) * SECTOR
    offset, size = struct.unpack_from("<II", data, PAYLOAD_AT)
    if setup_end + offset + size > len(data):
        raise InputError(f"bzImage: truncated: the kernel ends at {setup_end + offset + size}, the file at {len(data)}")
    return BzImage(
        release=_release(data, setup_end),
        protocol=(protocol >> 8, protocol & 0xFF),
        init_size=_u32(data, INIT_SIZE_AT),
        payload=(setup_end + offset, size),
        efi_stub=_is_pe(data),
    )


def embedded_config(data: bytes) -> str | None:
    """The .config text that CONFIG_IKCONFIG=y packs into a kernel; None if it has none.

    Raises:
        InputError: not a bzImage, its kernel is damaged or packed with LZ4, Zstandard or LZO, which are not supported.
    """
    offset, size = parse(data).payload
    kernel = _unpack(data[offset : offset + size])
    start = kernel.find(IKCONFIG_START)
    end = kernel.find(IKCONFIG_END, start)
    if start < 0 or end < 0:
        return None
    try:
        return _bounded(zlib.decompressobj(wbits=31), kernel[start + len(IKCONFIG_START) : end]).decode("utf-8")
    except (zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"bzImage: the configuration inside it is damaged: {error}") from error


def _unpack(payload: bytes) -> bytes:
    packer = next((name for magic, name in _PACKERS.items() if payload.startswith(magic)), "an unknown format")
    try:
        match packer:
            case "none":
                return payload
            case "gzip":
                return _bounded(zlib.decompressobj(wbits=31), payload)
            case "bzip2":
                return _bounded(bz2.BZ2Decompressor(), payload)
            case "xz" | "lzma":
                return _bounded(lzma.LZMADecompressor(), payload)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise InputError(f"bzImage: the kernel inside it ({packer}) is damaged: {error}") from error
    raise InputError(f"bzImage: the kernel inside it is packed with {packer}, so its configuration cannot be read")


def _bounded(unpacker: zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes) -> bytes:
    """Unpack one stream to at most 1 GiB; what follows it (the kernel's build appends the size) is ignored."""
    unpacked = unpacker.decompress(data, MAX_UNPACKED)
    if not unpacker.eof:
        raise InputError("bzImage: a packed part of it is truncated or unpacks to more than 1 GiB")
    return unpacked


def _release(data: bytes, setup_end: int) -> str:
    """The first word of the version text, at the header's pointer plus 0x200."""
    start = _u16(data, KERNEL_VERSION_AT) + SECTOR
    text = data[start : min(start + 256, setup_end)].partition(b"\0")[0]
    words = text.decode("ascii", "replace").split()
    if not words or not words[0].isprintable() or "\ufffd" in words[0]:
        raise InputError(f"bzImage: no kernel version at offset {start:#x}, where offset 0x20e points")
    return words[0]


def _is_pe(data: bytes) -> bool:
    """With CONFIG_EFI_STUB the file is a PE executable as well, which UEFI firmware starts by itself."""
    offset = _u32(data, PE_OFFSET_AT)
    return data[:2] == b"MZ" and data[offset : offset + 4] == b"PE\0\0"


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
