"""`builder.boot_disk`: what is read of a disk before it boots, and what is no such disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder import bzimage
from builder.boot_disk import FIRMWARE_BYTES, extract_model, open_disk_image
from image import disk
from tests.support.disks import make_disk
from vboot.errors import InputError


@pytest.fixture(scope="module")
def sound(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("disk") / "sound.img"
    make_disk(image, output)
    return output


def slot_start(path: Path, slot: disk.Slot) -> int:
    with path.open("rb") as file:
        return disk.open_disk(file, size=path.stat().st_size).slots[slot].start


def damaged(sound: Path, copy: Path, at: int, data: bytes) -> Path:
    shutil.copyfile(sound, copy)
    with copy.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return copy


def test_kernel_memory_and_model_are_those_of_the_disk(sound: Path, image: Path) -> None:
    found = open_disk_image(sound)
    kernel = (image / "vmlinuz").read_bytes()
    assert found.kernel.startswith(kernel), "and the zeros that it takes in memory"
    assert found.model == "vector_boot tiny"
    assert found.need.kernel_bytes == bzimage.parse(kernel).init_size + FIRMWARE_BYTES
    assert found.need.initramfs_bytes == (image / "initramfs.cpio").stat().st_size
    assert found.need.weights_bytes == (image / "vectorland.gguf").stat().st_size


def test_both_models_are_named_where_they_differ(sound: Path, tmp_path: Path) -> None:
    start, there = slot_start(sound, "A"), slot_start(sound, "B")
    contents = sound.read_bytes()[start:there]
    both = damaged(sound, tmp_path / "disk.img", there, contents)
    assert open_disk_image(both).model == "vector_boot tiny"
    damaged(sound, both, there, contents.replace(b"vector_boot tiny", b"another's mo\x1bdel"))
    assert open_disk_image(both).model == "vector_boot tiny or another's mo\\x1bdel"


def test_a_damaged_model_has_no_name(sound: Path, tmp_path: Path) -> None:
    with sound.open("rb") as file:
        opened = disk.open_disk(file, size=sound.stat().st_size)
        header = opened.header(file, "A")
    assert header is not None
    at = opened.slots["A"].start + header.tensor_offset
    for data in (b"GGUX", b"GGUF\3\0\0\0" + b"\xff" * 16):
        assert open_disk_image(damaged(sound, tmp_path / "disk.img", at, data)).model == "of unknown name"


def test_the_model_of_a_slot_is_copied_out(sound: Path, image: Path, tmp_path: Path) -> None:
    found = open_disk_image(sound)
    extract_model(found, "A", tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == (image / "vectorland.gguf").read_bytes()
    with pytest.raises(InputError, match=r"slot B of .*sound\.img is blank"):
        extract_model(found, "B", tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("beginning", "why"),
    [
        (b"", "no partition table"),
        (b"QFI\xfb\0\0\0\3", "it has the format qcow2; give the raw disk, vector_boot.img"),
        (b"KDMV\1\0\0\0", "it has the format VMDK; give the raw disk"),
        (b"vhdxfile", "it has the format VHDX; give the raw disk"),
        (b"conectix", "it has the format VHD; give the raw disk"),
    ],
)
def test_a_file_that_is_no_disk(tmp_path: Path, beginning: bytes, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(beginning.ljust(1 << 20, b"\0"))
    with pytest.raises(InputError, match=f"file is no disk of vector_boot: .*{why}"):
        open_disk_image(path)


def test_a_disk_that_cannot_boot(sound: Path, image: Path, tmp_path: Path) -> None:
    blank = damaged(sound, tmp_path / "disk.img", slot_start(sound, "A"), bytes(4096))
    with pytest.raises(InputError, match="both of its slots are blank"):
        open_disk_image(blank)
    entries = {f"{disk.ENTRIES_FOLDER}/vb-a+3.efi": None, f"{disk.ENTRIES_FOLDER}/other.efi": b"another system"}
    make_disk(image, blank, esp=entries)
    with pytest.raises(InputError, match="it has no boot entry; make one with `vboot build --format disk`"):
        open_disk_image(blank)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="fifo is no regular file; give a disk image or a folder"):
        open_disk_image(tmp_path / "fifo")
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        open_disk_image(tmp_path / "absent")
