"""EFI programs: sections are added to a stub, and a unified kernel image is made and read."""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image import pe, uki
from image.pe import PeError
from image.uki import UkiError
from tests.support import efi_programs
from vboot.errors import InputError

COMMAND_LINE = "console=ttyS0 panic=-1 vector_boot.slot=A vector_boot.verity=00:1 vector_boot.slot=B"


def built(stub: bytes | None = None, kernel: bytes | None = None, **changes: object) -> bytes:
    wanted: dict[str, object] = {
        "kernel": efi_programs.kernel() if kernel is None else kernel,
        "initramfs": b"070701 archive" * 100,
        "command_line": COMMAND_LINE,
        "os_release": uki.os_release(version="1.2.3", slot="A"),
        "release": "6.1.0-test",
        "version": "1.2.3",
    }
    return uki.build(efi_programs.program() if stub is None else stub, **(wanted | changes))  # type: ignore[arg-type]


def test_an_image_holds_what_it_was_made_from() -> None:
    data = built()
    found = uki.read(data)
    assert found.kernel == efi_programs.kernel()
    assert found.initramfs == b"070701 archive" * 100
    assert found.command_line == COMMAND_LINE
    assert found.word("vector_boot.slot") == "B"
    assert found.word("vector_boot") is None
    assert found.release == "6.1.0-test"
    assert 'PRETTY_NAME="vector_boot 1.2.3, slot A"' in found.os_release
    assert not found.signed
    assert data == built()


def test_the_revocation_data_of_all_parts_are_merged() -> None:
    inner = efi_programs.program(
        ((".text", b"code", 0x60000020), (".sbat", b"sbat,1,x\nlinux,1,linux,linux,6,-\n\0", 0x40000040)),
        front=efi_programs.kernel_front(),
    )
    lines = uki.read(built(kernel=inner)).sbat.splitlines()
    assert lines[0].startswith("sbat,1,SBAT Version")
    assert [line.split(",")[0] for line in lines] == ["sbat", "systemd", "linux", "vector_boot"]
    section = pe.read(built()).section(".sbat")
    assert section is not None
    assert section.data.endswith(b"\n\0")


def test_the_headers_tell_what_is_there() -> None:
    data = built()
    image = pe.read(data)
    names = [section.name for section in image.sections]
    assert names == [".text", ".sdmagic", ".osrel", ".cmdline", ".uname", ".sbat", ".linux", ".initrd"]
    linux = image.section(".linux")
    assert linux is not None
    assert linux.virtual_size == pe.read(efi_programs.kernel()).size_of_image > len(linux.data)
    assert all(section.address % pe.PAGE == 0 for section in image.sections[2:])
    (at,) = struct.unpack_from("<I", data, 0x3C)
    count, time = struct.unpack_from("<HI", data, at + 6)
    size_of_image, size_of_headers, checksum = struct.unpack_from("<III", data, at + 24 + 56)
    assert (count, time, checksum) == (8, 0, 0)
    assert (size_of_image, size_of_headers) == (image.size_of_image, 512 * -(-size_of_headers // 512))
    starts = [struct.unpack_from("<II", data, len(image.head) + 40 * number + 16) for number in range(count)]
    # No gap in the file: signing tools hash the sections and what is behind them.
    assert [start for _, start in starts] == [size_of_headers + sum(raw for raw, _ in starts[:n]) for n in range(count)]
    assert starts[-1][0] + starts[-1][1] == len(data)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stub": efi_programs.program(machine=0xAA64)}, "stub is for machine 0xaa64, expected 0x8664"),
        ({"stub": efi_programs.program(subsystem=3)}, "not systemd's"),
        ({"stub": efi_programs.program(efi_programs.STUB_SECTIONS[:2])}, "not systemd's"),
        ({"stub": efi_programs.program(signed=True)}, "stub is signed"),
        ({"stub": efi_programs.program((*efi_programs.STUB_SECTIONS, (".linux", b"x", 0)))}, "an image already"),
        ({"stub": efi_programs.program((efi_programs.STUB_SECTIONS[2],))}, "no revocation data"),
        ({"stub": b"MZ"}, "no PE executable"),
        ({"kernel": efi_programs.kernel(machine=0xAA64)}, "kernel is for machine 0xaa64"),
        ({"kernel": b"MZ"}, "no bzImage"),
        ({"kernel": b"xx" + efi_programs.kernel()[2:]}, "without CONFIG_EFI_STUB"),
        ({"command_line": "a\nb"}, "printable ASCII"),
        ({"command_line": "a\x00b"}, "printable ASCII"),
        ({"command_line": "\u00e9"}, "printable ASCII"),
        ({"command_line": "x" * 2048}, "has 2048 bytes, and Linux takes 2047"),
        ({"kernel": efi_programs.kernel(memory=uki.MOST_BYTES)}, "firmware loads at most 536870912"),
    ],
)
def test_what_firmware_would_not_run_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        built(**changes)  # type: ignore[arg-type]


def test_an_image_without_a_part_is_refused() -> None:
    with pytest.raises(UkiError, match=r"no image of vector_boot: it has no section '\.linux'"):
        uki.read(efi_programs.program())
    twice = pe.append(pe.read(built()), [(".cmdline", b"init=/bin/sh", 0)])
    with pytest.raises(UkiError, match=r"two sections '\.cmdline'"):
        uki.read(twice)


def test_sections_that_have_no_room_are_refused() -> None:
    base = pe.read(efi_programs.program())
    with pytest.raises(PeError, match=r"no room for 97 sections"):
        pe.append(base, [(f".s{number}", b"", 0) for number in range(94)])
    with pytest.raises(PeError, match=r"at most 8 bytes, got '\.toolongs'"):
        pe.append(base, [(".toolongs", b"", 0)])
    with pytest.raises(PeError, match="expected less than 4 GiB"):
        pe.append(base, [(".large", b"", 1 << 32)])
    with pytest.raises(PeError, match="signed executable"):
        pe.append(pe.read(efi_programs.program(signed=True)), [(".one", b"", 0)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_program_is_read_or_refused(data: st.DataObject) -> None:
    image = bytearray(built(initramfs=b"x"))
    for at in data.draw(st.lists(st.integers(0, 0x400), min_size=1, max_size=8)):
        image[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(image)))
    for damaged in (bytes(image), bytes(image[:cut])):
        with contextlib.suppress(PeError, UkiError):
            uki.read(damaged)
        with contextlib.suppress(PeError, UkiError):
            built(stub=damaged)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (Debian: binutils)")
def test_objdump_finds_the_sections_of_debians_stub_with_ours(tmp_path: Path) -> None:
    stub = efi_programs.debian_stub()
    data = built(stub)
    (tmp_path / "uki.efi").write_bytes(data)
    command = ["objdump", "-h", "-w", "-p", str(tmp_path / "uki.efi")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert shown.stderr == ""
    rows = re.findall(r"^ +\d+ (\.\w+) +([0-9a-f]{8}) +([0-9a-f]{16})", shown.stdout, re.MULTILINE)
    assert [(name, int(address, 16)) for name, _, address in rows] == [
        (section.name, section.address) for section in pe.read(data).sections
    ]
    assert re.search(r"Time/Date\s+Thu Jan  1 00:00:00 1970", shown.stdout)
    assert re.search(r"CheckSum\s+00000000", shown.stdout)
    assert re.search(r"Subsystem\s+0000000a\s+\(EFI application\)", shown.stdout)
    for section in pe.read(stub).sections:
        if section.name != ".sbat":
            assert pe.read(data).section(section.name) == section
