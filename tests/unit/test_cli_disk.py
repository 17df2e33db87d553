"""`vboot inspect` and `vboot verify` of disks, run for real."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image import disk, gpt
from image.disk_check import read_contents
from initramfs import newc
from tests.support.disks import MIB, boot_file, hash_tree, make_disk
from tests.support.vboot import PUBLIC_HEX, Vboot
from vboot.errors import InputError


@pytest.fixture(scope="module")
def sound(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("disk") / "sound.img"
    make_disk(image, output)
    return output


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Iterator[BinaryIO]:
    """A copy of the disk to be damaged: disk.img in the current folder."""
    shutil.copyfile(sound, tmp_path / "disk.img")
    with (tmp_path / "disk.img").open("r+b", buffering=0) as file:
        yield file


def opened(file: BinaryIO) -> disk.Disk:
    return disk.open_disk(file, size=file.seek(0, 2))


def flip(file: BinaryIO, at: int) -> None:
    file.seek(at)
    (byte,) = file.read(1)
    file.seek(at)
    file.write(bytes([byte ^ 1]))


def refused(vboot: Vboot, *options: str) -> str:
    assert vboot("verify", "disk.img", *options) == 1
    return vboot.last_error()


def test_inspect_tells_what_is_on_a_disk(vboot: Vboot, sound: Path, image: Path) -> None:
    answer = vboot.json("inspect", sound)
    assert [part["name"] for part in answer["partitions"]] == ["vb-esp", "vb-rts-a", "vb-rts-b", "vb-state"]
    assert answer["default_slot"] == "A"
    assert answer["state_blank"]
    slot = answer["slots"]["A"]
    assert slot["boot"]["tries_left"] == 3
    assert slot["boot"]["sha256"] == hashlib.sha256(boot_file(image)).hexdigest()
    root, blocks = hash_tree(image / "vector_boot.rts")[0].root.hex(), slot["verity"]["data_blocks"]
    assert slot["verity"]["root"] == root
    assert f"vector_boot.verity={root}:{blocks}" in slot["boot"]["command_line"]
    whole = vboot.json("inspect", image / "vector_boot.rts")
    assert (slot["rts"], slot["gguf"]) == (whole["rts"], whole["gguf"])
    assert answer["slots"]["B"] == {"partition": "vb-rts-b", "blank": True, "boot": None}
    assert vboot("inspect", sound) == 0
    for words in ("vb-a+3.efi, on trial, 3 tries left", "vector_boot 0.1.0, slot A", root, "vb-state", "by key"):
        assert words in vboot.out


def test_a_sound_disk_is_verified(vboot: Vboot, sound: Path) -> None:
    assert vboot.json("verify", sound, "--key", PUBLIC_HEX)["key_given"]
    assert vboot("verify", sound) == 0
    assert "sound disk, slot A on trial, 3 tries left" in vboot.out
    assert "signature not checked (give --key), slot B blank" in vboot.out


def test_a_folder_with_a_disk_is_verified_as_a_whole(vboot: Vboot, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    assert vboot("build", "--model", "tiny", "--format", "disk", "--output", folder) == 0
    answer = vboot.json("verify", folder)
    assert {"vector_boot.img", "vb-a.efi", "vb-b.efi", "vector_boot.verity", "vectorland.gguf"} < set(answer["files"])
    whole = vboot.json("inspect", folder / "vector_boot.img")
    assert whole["slots"]["A"]["boot"]["release"].startswith("6.")
    with (folder / "vector_boot.img").open("r+b", buffering=0) as file:
        state = opened(file).state.start
        file.seek(state)
        file.write(b"what a machine wrote")
        assert vboot("verify", folder) == 0, "a machine writes to its disk"
        flip(file, opened(file).slots["A"].start + 700)
    assert vboot("verify", folder) == 1
    assert "slot A of" in vboot.last_error()
    with (folder / "vb-b.efi").open("r+b", buffering=0) as file:
        flip(file, 5000)
    assert vboot("verify", folder) == 1
    assert "vb-b.efi has SHA-256" in vboot.last_error()


def test_another_key_is_refused(vboot: Vboot, copy: BinaryIO) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()
    assert "slot A of disk.img: RTS: key_id" in refused(vboot, "--key", other)


def test_a_disk_in_another_format_is_named(vboot: Vboot, copy: BinaryIO) -> None:
    copy.seek(0)
    copy.write(b"QFI\xfb\0\0\0\3")
    for verb in ("inspect", "verify"):
        assert vboot(verb, "disk.img") == 1
        assert "disk.img is no raw disk: it has the format qcow2; give the raw disk" in vboot.last_error()


def test_a_larger_disk_is_sound(vboot: Vboot, copy: BinaryIO) -> None:
    copy.truncate(copy.seek(0, 2) + 5 * MIB)
    assert vboot("verify", "disk.img") == 0
    assert not vboot.json("inspect", "disk.img")["backup_table_at_end"]


def test_damage_is_found_wherever_it_is(vboot: Vboot, copy: BinaryIO) -> None:
    found = opened(copy)
    slot = found.slots["A"]
    header = found.header(copy, "A")
    assert header is not None
    tree_at = slot.start + -(-header.total_size // 4096) * 4096
    entry = found.entries()[0].path
    uki_at = found.esp_partition.start + found.esp.shape.offset(found.esp.files()[entry].cluster)
    for at, why in (
        (gpt.SECTOR + 40, "the primary header's CRC is wrong"),
        (found.gpt.disk_size - 1000, "the CRC of the backup entries is wrong"),
        (slot.start, "slot A: magic at offset 0"),
        (slot.start + 150, "data of slot A have the root hash"),  # the signature, and no key is given
        (slot.start + 600, "slot A of disk.img: RTS: binary_sha256"),
        (slot.start + header.total_size - 1, "slot A of disk.img: RTS: tensor_sha256"),
        (tree_at, "hash tree of slot A is damaged in its block 0"),
        (uki_at, "vb-a+3.efi is no PE executable"),
    ):
        flip(copy, at)
        assert why in refused(vboot), at
        flip(copy, at)
    assert vboot("verify", "disk.img") == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"vector_boot.slot": "B"}, "vb-a+3.efi has vector_boot.slot=B"),
        ({"vector_boot.verity": "00:1"}, "expected vector_boot.verity=64 hex digits:blocks, got '00:1'"),
        ({"vector_boot.verity": f"{'0' * 64}:1"}, "demands 1 blocks of slot A, whose image has"),
    ],
)
def test_a_boot_file_that_does_not_fit_its_slot_is_named(
    vboot: Vboot, image: Path, tmp_path: Path, words: dict[str, str], why: str
) -> None:
    entry = "EFI/Linux/vb-a+3.efi"
    make_disk(image, tmp_path / "disk.img", esp={entry: boot_file(image, words=words)})
    assert why in refused(vboot)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"EFI/BOOT/BOOTX64.EFI": None}, "there is no 'EFI/BOOT/BOOTX64.EFI'"),
        ({"EFI/BOOT/BOOTX64.EFI": b"text"}, "BOOTX64.EFI is no PE executable"),
        ({"loader/loader.conf": b"timeout 3\n"}, "loader.conf names no default slot"),
        ({"EFI/Linux/vb-a+3.efi": None, "EFI/Linux/other.efi": b"text"}, "there is no boot entry in EFI/Linux"),
        ({"EFI/Linux/vb-a.efi": b"text"}, "slot A has two boot entries"),
    ],
)
def test_files_that_are_missing_or_wrong_are_named(
    vboot: Vboot, image: Path, tmp_path: Path, changes: dict[str, bytes | None], why: str
) -> None:
    make_disk(image, tmp_path / "disk.img", esp=changes)
    assert why in refused(vboot)


def test_another_executable_in_the_initramfs_is_named(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    archive = newc.archive([newc.file("init", b"another", mode=0o755)])
    make_disk(image, tmp_path / "disk.img", esp={"EFI/Linux/vb-a+3.efi": boot_file(image, initramfs=archive)})
    assert f"/init in vb-a+3.efi has SHA-256 {hashlib.sha256(b'another').hexdigest()}, expected" in refused(vboot)


def test_a_slot_without_a_boot_entry_is_not_looked_at(vboot: Vboot, copy: BinaryIO) -> None:
    copy.seek(opened(copy).slots["B"].start)
    copy.write(b"half an update")
    assert vboot("verify", "disk.img") == 0
    assert "slot B without a boot entry, so nothing starts it; not checked" in vboot.out


def test_a_boot_entry_of_a_blank_slot_is_named(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    entry = {"EFI/Linux/vb-b+3.efi": boot_file(image, "B")}
    make_disk(image, tmp_path / "disk.img", esp=entry)
    assert "slot B has the boot entry vb-b+3.efi and is blank" in refused(vboot)


def test_a_disk_that_was_cut_is_refused(vboot: Vboot, copy: BinaryIO) -> None:
    whole = copy.seek(0, 2)
    for size in (whole - 512, whole // 2, MIB, 2048, 512):
        copy.truncate(size)
        assert "disk.img: " in refused(vboot)


def test_any_damage_is_read_or_refused_with_a_sentence(copy: BinaryIO) -> None:
    found = opened(copy)
    random_numbers = random.Random(14)
    fat_at = found.esp_partition.start + found.esp.shape.reserved_sectors * gpt.SECTOR
    root_at = found.esp_partition.start + found.esp.shape.data_start
    for start, size in ((0, 34 * gpt.SECTOR), (found.esp_partition.start, 512), (fat_at, 2048), (root_at, 4096)):
        for _ in range(12):
            copy.seek(at := start + random_numbers.randrange(size))
            before = copy.read(4)
            copy.seek(at)
            copy.write(random_numbers.randbytes(4))
            with contextlib.suppress(InputError):
                read_contents(copy, size=found.gpt.disk_size)
            copy.seek(at)
            copy.write(before)
    assert read_contents(copy, size=found.gpt.disk_size).loader.default == "A"
