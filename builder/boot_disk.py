"""A disk image for UEFI firmware: what it holds, and the memory that a machine with it needs."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from builder import bzimage
from builder.integrity import Checked
from image import disk, uki
from image.disk import Slot
from image.gpt import Partition
from image.rts import RtsHeader
from image.streams import read_chunks
from initramfs.memory import MIB, MemoryNeed
from vboot.errors import InputError
from vboot.gguf import read_layout, scalar
from vboot.text import path_text, printable

FIRMWARE_BYTES = 64 * MIB
"""What the firmware keeps, and its copies of kernel and initramfs while it starts them."""
_OTHER_FORMATS = {b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"vhdxfile": "VHDX", b"conectix": "VHD"}


@dataclass(frozen=True)
class DiskImage:
    """A disk that firmware boots. `kernel` is the kernel of its first boot entry; `model` names what its slots hold.

    `checked` are the files that were compared with a manifest: none, because the disk is checked as it is used.
    """

    path: Path
    need: MemoryNeed
    kernel: bytes = field(repr=False)
    model: str = "of unknown name"
    checked: Checked = field(default_factory=Checked)


def open_disk_image(path: Path) -> DiskImage:
    """Read a disk image. Raises InputError that says what it is not."""
    try:
        # Opening a FIFO would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path_text(path)} is no regular file", remedy="give a disk image or a folder")
            try:
                return _read(path, file)
            except InputError as error:
                what = f"{path_text(path)} is no disk of vector_boot: {error.what}"
                raise InputError(what, remedy=error.remedy or "make one with `vboot build --format disk`") from error
    except OSError as error:
        raise InputError(f"{path_text(path)} cannot be read: {error.strerror}") from error


def extract_model(image: DiskImage, slot: Slot, output: Path) -> None:
    """Copy the model in a slot to a new file. Raises OSError, InputError."""
    with image.path.open("rb") as source, output.open("xb") as target:
        opened = disk.open_disk(source, size=source.seek(0, os.SEEK_END))
        header = opened.header(source, slot)
        if header is None:
            raise InputError(f"slot {slot} of {path_text(image.path)} is blank")
        start = opened.slots[slot].start + header.tensor_offset
        for chunk in read_chunks(source, offset=start, size=header.tensor_size):
            target.write(chunk)


def refuse_other_format(beginning: bytes) -> None:
    """Raises InputError for the first 8 bytes of a disk image that is not raw."""
    other = next((name for magic, name in _OTHER_FORMATS.items() if beginning.startswith(magic)), None)
    if other is not None:
        raise InputError(f"it has the format {other}", remedy="give the raw disk, vector_boot.img")


def _read(path: Path, file: BinaryIO) -> DiskImage:
    refuse_other_format(file.read(8))
    opened = disk.open_disk(file, size=file.seek(0, os.SEEK_END))
    entries = opened.entries()
    headers = {slot: header for slot in disk.SLOTS if (header := opened.header(file, slot)) is not None}
    if not entries or not headers:
        raise InputError("it has no boot entry" if not entries else "both of its slots are blank")
    found = uki.read(opened.esp.read(entries[0].path), what=entries[0].name)
    need = MemoryNeed(
        kernel_bytes=bzimage.parse(found.kernel).init_size + FIRMWARE_BYTES,
        initramfs_bytes=len(found.initramfs),
        weights_bytes=max(header.tensor_size for header in headers.values()),
    )
    # Which slot the boot loader takes is seen only when the machine runs.
    names = dict.fromkeys(_model_name(file, opened.slots[slot], header) for slot, header in headers.items())
    return DiskImage(path, need, found.kernel, " or ".join(names))


def _model_name(file: BinaryIO, slot: Partition, header: RtsHeader) -> str:
    """The name that the model in a slot gives itself; that it is not known, where the model is damaged."""
    start = slot.start + header.tensor_offset
    try:
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data)[start : start + header.tensor_size] as view,
        ):
            name = scalar(read_layout(view, name="the model").metadata, "general.name")
    except (InputError, ValueError):
        name = None
    return printable(str(name)) if name else "of unknown name"
