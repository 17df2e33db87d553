"""The disk that firmware boots: it is made, and its parts are found again."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from image import disk, gpt
from image.disk import DiskError
from image.fat32 import FatError
from image.rts import parse_header
from image.verity import BLOCK
from tests.support.disks import LOADER, MIB, boot_file, hash_tree, make_disk

TOOLS = ("/usr/sbin/sgdisk", "/usr/sbin/fsck.fat", "mtype")


@pytest.fixture(scope="module")
def made(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("disk") / "vector_boot.img"
    make_disk(image, output)
    return output


def test_the_parts_are_found_again(image: Path, made: Path) -> None:
    rts = image / "vector_boot.rts"
    with made.open("rb") as file:
        opened = disk.open_disk(file, size=made.stat().st_size)
        assert [part.name for part in opened.gpt.partitions] == ["vb-esp", "vb-rts-a", "vb-rts-b", "vb-state"]
        assert opened.esp.label == "VB-ESP"
        (entry,) = opened.entries()
        assert (entry.slot, entry.name, entry.tries_left, entry.tries_done) == ("A", "vb-a+3.efi", 3, 0)
        assert opened.esp.read(entry.path) == boot_file(image)
        assert opened.esp.read(disk.LOADER_PATH) == LOADER
        assert opened.esp.read(disk.LOADER_CONF) == disk.loader_conf("A")
        expected = parse_header(rts.read_bytes()[:512], file_size=rts.stat().st_size)
        assert opened.header(file, "A") == expected
        assert opened.header(file, "B") is None
        found, tree = hash_tree(rts)
        file.seek(opened.slots["A"].start)
        assert file.read(rts.stat().st_size) == rts.read_bytes()
        file.seek(opened.slots["A"].start + found.data_bytes)
        assert file.read(len(tree)) == tree


def test_the_same_parts_give_the_same_bytes_and_other_seeds_other_guids(
    image: Path, made: Path, tmp_path: Path
) -> None:
    table = make_disk(image, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == made.read_bytes()
    guids = {table.disk_guid, *(part.guid for part in table.partitions)}
    assert len(guids) == 5
    assert all(guid.version == 5 for guid in guids)


def test_a_disk_is_sparse(made: Path) -> None:
    status = made.stat()
    assert status.st_blocks * 512 < status.st_size / 2


def test_the_settings_of_the_slots_differ_in_one_byte() -> None:
    one, other = disk.loader_conf("A"), disk.loader_conf("B")
    assert len(one) == len(other) < gpt.SECTOR
    assert sum(left != right for left, right in zip(one, other, strict=True)) == 1


def test_a_slot_has_room_for_a_larger_image() -> None:
    assert disk.default_slot_bytes(1) == MIB
    assert disk.default_slot_bytes(100 * MIB) == 126 * MIB
    assert disk.default_slot_bytes(1000 * MIB + BLOCK) % MIB == 0


def test_what_does_not_fit_is_refused(image: Path, tmp_path: Path) -> None:
    rts = image / "vector_boot.rts"
    needed = -(-rts.stat().st_size // BLOCK) * BLOCK + len(hash_tree(rts)[1])
    with pytest.raises(DiskError, match=rf"larger than a slot: it needs {needed} bytes, and a slot has {MIB}"):
        make_disk(image, tmp_path / "disk", slot_mib=1)
    with pytest.raises(FatError, match=r"EFI system partition is full: the files need \d+ bytes.*give .* --esp-size"):
        make_disk(image, tmp_path / "disk", esp={"large": bytes(64 * MIB)})


def test_another_disk_is_refused(made: Path, tmp_path: Path) -> None:
    with made.open("rb") as file:
        table = gpt.read(file, disk_size=made.stat().st_size)
    head, tail = gpt.render(gpt.Gpt(table.disk_guid, table.partitions[:3], table.disk_size))
    other = tmp_path / "other"
    shutil.copyfile(made, other)
    with other.open("r+b") as file:
        file.write(head)
        file.seek(table.disk_size - len(tail))
        file.write(tail)
        with pytest.raises(DiskError, match=r"no disk of vector_boot: expected .* got 1, 2 and 0"):
            disk.open_disk(file, size=table.disk_size)


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="needs gdisk, dosfstools and mtools")
def test_other_tools_find_the_disk_right(image: Path, made: Path, tmp_path: Path) -> None:
    def run(*command: str | Path) -> bytes:
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    sgdisk, fsck, mtype = TOOLS
    assert b"No problems found" in run(sgdisk, "-v", made)
    start = int(re.findall(rb"First sector: (\d+)", run(sgdisk, "-i", "1", made))[0]) * 512
    with made.open("rb") as file, (tmp_path / "esp").open("wb") as esp:
        file.seek(start)
        esp.write(file.read(64 * MIB))
    run(fsck, "-n", tmp_path / "esp")
    assert run(mtype, "-i", f"{made}@@{start}", "::EFI/Linux/vb-a+3.efi") == boot_file(image)
