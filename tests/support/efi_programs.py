"""EFI programs for tests: a small one made here from the written format, and Debian's own."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

STUB_MARK = b"#### LoaderInfo: systemd-stub 252 ####\0"
SBAT = b"sbat,1,SBAT Version,sbat,1,https://example.org\nsystemd,1,systemd,systemd,252,https://example.org\n\0"
STUB_SECTIONS = ((".text", b"\xc3" * 700, 0x60000020), (".sbat", SBAT, 0x40000040), (".sdmagic", STUB_MARK, 0x40000040))


def program(
    sections: tuple[tuple[str, bytes, int], ...] = STUB_SECTIONS,
    *,
    machine: int = 0x8664,
    subsystem: int = 10,
    signed: bool = False,
    front: bytes = b"MZ",
    memory: int = 0,
) -> bytes:
    """A PE32+ file; its last section takes `memory` bytes in memory if that is more than its data."""
    at = 0x80 if len(front) <= 0x3C else -(-len(front) // 8) * 8
    table, body, address, place = b"", b"", 0x4000, 0x1000
    for name, data, flags in sections:
        size = max(len(data), memory if name == sections[-1][0] else 0)
        raw = -(-len(data) // 512) * 512
        table += struct.pack("<8sIIIIIIHHI", name.encode(), size, address, raw, place, 0, 0, 0, 0, flags)
        body += data.ljust(raw, b"\0")
        address += -(-size // 4096) * 4096
        place += raw
    directories = [(0, 0)] * 16
    if signed:
        directories[4] = (place, 8)
        body += bytes(8)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        0x20B, 2, 40, 512, 512, 0, 0x4000, 0x4000, 0, 4096, 512, 0, 0, 0, 0, 1, 1, 0, address, 0x1000, 0x1234,
        subsystem, 0, 0, 0, 0, 0, 0, 16,
    )  # fmt: skip
    optional += b"".join(struct.pack("<II", *directory) for directory in directories)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(sections), 0x5EAF00D, 0, 0, len(optional), 0x206)
    head = bytearray(front.ljust(at, b"\0"))
    struct.pack_into("<I", head, 0x3C, at)
    return (bytes(head) + coff + optional + table).ljust(0x1000, b"\0") + body


def kernel_front() -> bytes:
    """The first bytes of a file with the marks of a bzImage."""
    front = bytearray(b"MZ".ljust(0x300, b"\0"))
    front[0x202:0x206] = b"HdrS"
    return bytes(front)


def kernel(*, machine: int = 0x8664, memory: int = 0x9000, text: bytes = b"kernel code") -> bytes:
    """A file with the marks of a bzImage that firmware can start."""
    return program(((".text", text, 0x60000020),), machine=machine, front=kernel_front(), memory=memory)


@functools.cache
def debian_boot_files() -> Path:
    """The folder of systemd's stub and boot loader, from Debian's package; the test is skipped where apt has none."""
    folder = Path(tempfile.mkdtemp(prefix="vboot-test-"))
    try:
        subprocess.run(
            ["apt-get", "download", "systemd-boot-efi"], cwd=folder, check=True, capture_output=True, timeout=120
        )
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs Debian's package systemd-boot-efi: {error}")
    return folder / "usr/lib/systemd/boot/efi"


def debian_stub() -> bytes:
    """systemd's stub."""
    return (debian_boot_files() / "linuxx64.efi.stub").read_bytes()
