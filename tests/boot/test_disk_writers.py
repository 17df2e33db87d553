"""UEFI firmware boots a disk whose every byte our writers made, with Debian's boot loader and stub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from image import disk
from qemu.firmware import find_firmware
from qemu.launch import start
from qemu.spec import Disk, MachineSpec
from tests.boot.conftest import Image
from tests.support.disks import boot_file, make_disk
from tests.support.efi_programs import debian_boot_files

SLOWEST_BOOT_S = 120.0


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
def test_firmware_starts_the_boot_file_and_the_machine_beats(tiny: Image, tmp_path: Path) -> None:
    folder = debian_boot_files()
    uki = boot_file(tiny.folder, stub=(folder / "linuxx64.efi.stub").read_bytes())
    loader = (folder / "systemd-bootx64.efi").read_bytes()
    path = tmp_path / "disk.img"
    make_disk(tiny.folder, path, esp=disk.esp_files(loader=loader, uki=uki, slot="A"))
    firmware = find_firmware()
    spec = MachineSpec(
        firmware=firmware.code,
        firmware_template=firmware.variables,
        disks=(Disk(path, "vb-disk", read_only=False),),
        memory_mib=512,
    )
    with start(spec, run=tmp_path / "run") as machine:
        machine.wait_for_console("phase=heartbeat", timeout=SLOWEST_BOOT_S)
    with path.open("rb") as file:
        (entry,) = disk.open_disk(file, size=path.stat().st_size).entries()
    assert entry.slot == "A"
    assert (entry.tries_left, entry.tries_done) == (2, 1), "the boot loader counts in a file system of ours"
