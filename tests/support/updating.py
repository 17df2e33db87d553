"""Machines that firmware starts from a disk with two slots, and folders that they are updated from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image.disk import LOADER_PATH, Slot, loader_conf
from qemu.firmware import find_firmware
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import Disk, MachineSpec
from tests.support.disks import boot_file, make_disk
from tests.support.efi_programs import debian_boot_files
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import MachineError

SLOWEST_BOOT_S = 600.0
"""Firmware, boot loader and up to five boots, on a busy host under emulation."""
QUICK = {"vector_boot.heartbeat_ms": "10", "vector_boot.onfail": "reboot"}
"""A slot is tested after 600 beats: six seconds."""
SERIAL = "vb-disk"


def source(
    image: Path, folder: Path, *, words: Mapping[str, str] | None = None, initramfs: bytes | None = None
) -> Path:
    """A folder to update from: the image, and boot files with these words on their command lines."""
    folder.mkdir()
    (folder / "vector_boot.rts").symlink_to(image / "vector_boot.rts")
    stub = (debian_boot_files() / "linuxx64.efi.stub").read_bytes()
    for slot in ("A", "B"):
        data = boot_file(image, slot, words=QUICK | dict(words or {}), stub=stub, initramfs=initramfs)
        (folder / f"vb-{slot.lower()}.efi").write_bytes(data)
    return folder


def disk_with_slot_a(image: Path, path: Path, made: Path, *, name: str = "vb-a.efi", default: Slot = "A") -> Path:
    """A disk with the boot file of slot A in the folder `made`, under this name."""
    esp: dict[str, bytes | None] = {
        LOADER_PATH: (debian_boot_files() / "systemd-bootx64.efi").read_bytes(),
        "EFI/Linux/vb-a+3.efi": None,
        f"EFI/Linux/{name}": (made / "vb-a.efi").read_bytes(),
        "loader/loader.conf": loader_conf(default),
    }
    make_disk(image, path, esp=esp)
    return path


def machine_of(disk: Path, *, reboots: bool = True, layers: Mapping[str, Any] | None = None) -> MachineSpec:
    """A machine that writes to the disk. `layers`: options of QEMU's block driver between the two."""
    firmware = find_firmware()
    disks: tuple[Disk, ...] = (Disk(disk, SERIAL, read_only=False),)
    extra: tuple[str, ...] = ()
    if layers is not None:
        file = {"driver": "file", "filename": os.fspath(disk.absolute())}
        inner = "image" if layers["driver"] == "blkdebug" else "file"
        node = {"driver": "raw", "node-name": "whole", "file": {**layers, inner: file}}
        device = f"virtio-blk-pci,drive=whole,serial={SERIAL},write-cache=on,werror=report,rerror=report"
        disks, extra = (), ("-blockdev", json.dumps(node), "-device", device)
    return MachineSpec(
        firmware=firmware.code, firmware_template=firmware.variables, disks=disks, memory_mib=512, cpus=1,
        reboots=reboots, extra=extra,
    )  # fmt: skip


@contextmanager
def running(spec: MachineSpec, run: Path) -> Iterator[VirtualMachine]:
    """The machine, which is killed at the end as by a power cut."""
    with start(spec, run=run) as machine:
        yield machine


@contextmanager
def client_of(machine: VirtualMachine) -> Iterator[MachineClient]:
    """A client, once the machine answers: it may still be starting."""
    deadline = time.monotonic() + SLOWEST_BOOT_S
    while True:
        try:
            client = connect(machine.evolution, timeout=5)
            break
        except MachineError:
            machine.check()
            if time.monotonic() > deadline:
                raise
    with client:
        client.timeout = 60
        yield client


def await_boot(client: MachineClient, *, blessed: bool | None = None) -> Any:
    """What `stats` says of the boot, once it is known, or once it is so."""
    deadline = time.monotonic() + SLOWEST_BOOT_S
    while True:
        stats = client.stats()
        if stats.boot is not None and (blessed is None or stats.boot.blessed == blessed):
            return stats
        assert time.monotonic() < deadline, stats
        time.sleep(0.2)
