from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import bzimage
from tests.support import kernel_files
from tests.support.kernel_files import RELEASE
from vboot.errors import InputError

CONFIG = "CONFIG_64BIT=y\nCONFIG_VIRTIO=m\n"
VMLINUX = b"\x7fELF" + bytes(99) + b"IKCFG_ST" + gzip.compress(CONFIG.encode(), mtime=0) + b"IKCFG_ED" + bytes(99)
SIZE = struct.pack("<I", len(VMLINUX))


def packed_lzma() -> bytes:
    return lzma.compress(VMLINUX, format=lzma.FORMAT_ALONE)


PACKERS: dict[str, Callable[[], bytes]] = {
    "none": lambda: VMLINUX,
    "gzip": lambda: gzip.compress(VMLINUX, mtime=0),
    "bzip2": lambda: bz2.compress(VMLINUX) + SIZE,
    "xz": lambda: lzma.compress(VMLINUX) + SIZE,
    "lzma": lambda: packed_lzma() + SIZE,
}


def test_the_header_is_read() -> None:
    image = bzimage.parse(kernel_files.bzimage(b"payload", init_size=53_968_896))
    assert image == bzimage.BzImage(
        release=RELEASE, protocol=(2, 15), init_size=53_968_896, payload=(3 * 512 + 16, 7), efi_stub=True
    )


def test_the_efi_stub_is_detected() -> None:
    assert not bzimage.parse(kernel_files.bzimage().replace(b"PE\0\0", b"PX\0\0")).efi_stub
    assert not bzimage.parse(b"ZM" + kernel_files.bzimage()[2:]).efi_stub


def edited(offset: int, data: bytes) -> bytes:
    image = bytearray(kernel_files.bzimage())
    image[offset : offset + len(data)] = data
    return bytes(image)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a bzImage"),
        (b"\x7fELF" + bytes(1000), "not a bzImage"),
        (edited(0x202, b"HdrT"), "no HdrS at offset 0x202"),
        (edited(0x1FE, b"\0\0"), "not a bzImage"),
        (edited(0x206, b"\x0b\x02"), "0x020b at offset 0x206 is older than 0x020c"),
        (edited(0x236, b"\0\0"), "32-bit kernel"),
        (kernel_files.bzimage(b"payload")[:-1], "truncated: the kernel ends at 1559, the file at 1558"),
        (edited(0x248, b"\xff\xff\xff\xff"), "truncated"),
        (edited(0x20E, b"\xff\xff"), "no kernel version"),
        (edited(0x300, b"\0"), "no kernel version"),
        (edited(0x300, b"\xff\xfe"), "no kernel version"),
    ],
)
def test_an_invalid_bzimage_is_refused_with_the_offset(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        bzimage.parse(data)


@settings(deadline=None, derandomize=True)
@given(st.data(), st.binary(min_size=1, max_size=8), st.binary(max_size=1000))
def test_damaged_images_are_read_or_refused(data: st.DataObject, piece: bytes, garbage: bytes) -> None:
    whole = kernel_files.bzimage(gzip.compress(VMLINUX, mtime=0))
    at = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (garbage, whole[:at], whole[:at] + piece + whole[at + len(piece) :]):
        try:
            image = bzimage.parse(damaged)
            bzimage.embedded_config(damaged)
        except InputError:
            continue
        assert sum(image.payload) <= len(damaged)


@pytest.mark.parametrize("packer", PACKERS)
def test_the_configuration_inside_is_found(packer: str) -> None:
    assert bzimage.embedded_config(kernel_files.bzimage(PACKERS[packer]())) == CONFIG


def test_no_configuration_inside_is_none() -> None:
    assert bzimage.embedded_config(kernel_files.bzimage(gzip.compress(b"\x7fELF", mtime=0))) is None
    assert bzimage.embedded_config(kernel_files.bzimage(VMLINUX.replace(b"IKCFG_ED", b"IKCFG_EE"))) is None


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x02\x21\x4c\x18", "packed with lz4"),
        (b"\x28\xb5\x2f\xfd", "packed with zstd"),
        (b"????", "packed with an unknown format"),
        (gzip.compress(VMLINUX, mtime=0)[:-9], "truncated"),
        (lzma.compress(VMLINUX)[:40] + bytes(40), "xz. is damaged"),
        (VMLINUX.replace(b"IKCFG_ST\x1f", b"IKCFG_ST\x00"), "configuration inside it is damaged"),
    ],
)
def test_a_kernel_that_cannot_be_searched_says_why(payload: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        bzimage.embedded_config(kernel_files.bzimage(payload))
