from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image import fat32, fat_names
from image.fat32 import LEAST_BYTES, SECTOR, Fat32, FatError
from vboot.errors import InputError

FSCK = "/usr/sbin/fsck.fat"
FILES = {
    "EFI/BOOT/BOOTX64.EFI": b"loader" * 1000,
    "EFI/Linux/vb-a+3.efi": bytes(range(256)) * 300,
    "EFI/Linux/vb-b+2-1.efi": b"b",
    "loader/loader.conf": b"timeout 0\n",
    "empty": b"",
    "A name that is ünusual and takes several entries.text": b"x",
}

parts = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cc"]), min_size=1, max_size=30
)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(paths, st.binary(max_size=3000), max_size=12)


def disk_of(files: dict[str, bytes], *, size: int = LEAST_BYTES) -> bytearray:
    disk = bytearray(size)
    for at, data in fat32.render(files, size=size, label="VB-ESP", serial=0x1234ABCD, start=1 << 20):
        assert not any(disk[at : at + len(data)]), "two pieces overlap"
        disk[at : at + len(data)] = data
    return disk


def test_what_was_written_reads_the_same() -> None:
    read = Fat32(io.BytesIO(disk_of(FILES)))
    assert {path: read.read(path) for path in read.files()} == FILES
    assert (read.label, read.serial, read.size) == ("VB-ESP", 0x1234ABCD, LEAST_BYTES)
    assert [each.name for each in read.list("efi/linux")] == ["vb-a+3.efi", "vb-b+2-1.efi"]


def test_the_same_files_give_the_same_bytes() -> None:
    assert disk_of(dict(reversed(FILES.items()))) == disk_of(FILES)


@pytest.mark.parametrize("size", [LEAST_BYTES, 64 << 20, 260 << 20, 261 << 20, 9 << 30])
def test_every_size_has_enough_clusters_for_fat32(size: int) -> None:
    shape = fat32.geometry(size)
    assert shape.clusters >= 65_525
    assert shape.fat_sectors * SECTOR >= (shape.clusters + 2) * 4
    assert shape.offset(shape.clusters + 2) <= size


@pytest.mark.parametrize("size", [0, 33 << 20, LEAST_BYTES + 1, 4 << 40])
def test_a_size_that_fat32_cannot_have_is_refused(size: int) -> None:
    with pytest.raises(FatError, match="34 MiB to 2 TiB"):
        fat32.render({}, size=size, label="x", serial=0)


def test_files_that_do_not_fit_are_refused_with_both_sizes() -> None:
    room = fat32.geometry(LEAST_BYTES).clusters * SECTOR - SECTOR
    disk_of({"a": bytes(1) * room})
    with pytest.raises(FatError, match=rf"the files need {room + 2 * SECTOR} bytes, and it has {room + SECTOR}"):
        disk_of({"a": bytes(1) * (room + 1)})
    assert fat32.needed_bytes({"a": bytes(room)}, LEAST_BYTES) == room + SECTOR


@pytest.mark.parametrize(
    "files",
    [
        {"a:b": b""},
        {"a\n": b""},
        {"a.": b""},
        {"a ": b""},
        {"a//b": b""},
        {"": b""},
        {"x" * 256: b""},
        {"\ud800": b""},
        {"a": b"", "A": b""},
        {"a": b"", "a/b": b""},
    ],
)
def test_a_name_that_fat_cannot_hold_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(InputError):
        disk_of(files)


def test_names_alike_in_their_first_characters_have_short_names_of_their_own() -> None:
    taken: set[bytes] = set()
    for number in range(1200):
        _, short = fat_names.entries(f"a long name {number}", taken)
        assert short not in taken
        taken.add(short)
    assert fat_names.entries("BOOTX64.EFI", taken) == (b"", b"BOOTX64 EFI")


@settings(max_examples=60, deadline=None)
@given(trees)
def test_any_tree_reads_the_same(files: dict[str, bytes]) -> None:
    try:
        disk = disk_of(files)
    except InputError:
        return
    read = Fat32(io.BytesIO(disk))
    assert {path: read.read(path) for path in read.files()} == files


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_system_is_read_or_refused(data: st.DataObject) -> None:
    disk = disk_of(FILES)
    used = fat32.geometry(LEAST_BYTES).data_start
    places = st.one_of(
        st.integers(0, 100), st.integers(32 * SECTOR, 33 * SECTOR), st.integers(used, used + 20 * SECTOR)
    )
    for at in data.draw(st.lists(places, min_size=1, max_size=20)):
        disk[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FatError):
        read = Fat32(io.BytesIO(disk))
        for path in read.files():
            read.read(path)


def test_a_chain_in_a_circle_ends() -> None:
    disk = disk_of(FILES)
    read = Fat32(io.BytesIO(disk))
    cluster = read.files()["EFI/BOOT/BOOTX64.EFI"].cluster
    at = 32 * SECTOR + 4 * (cluster + 1)
    disk[at : at + 4] = cluster.to_bytes(4, "little")
    assert len(Fat32(io.BytesIO(disk)).read("EFI/BOOT/BOOTX64.EFI")) == 6000
    disk[at : at + 4] = (0x0FFFFFFF).to_bytes(4, "little")
    with pytest.raises(FatError, match="ends after 1024 of 6000 bytes"):
        Fat32(io.BytesIO(disk)).read("EFI/BOOT/BOOTX64.EFI")


def test_what_is_not_there_is_named() -> None:
    read = Fat32(io.BytesIO(disk_of(FILES)))
    for path in ("EFI/none", "loader/loader.conf/x"):
        with pytest.raises(FatError, match=f"no '{path}'"):
            read.read(path)
    with pytest.raises(FatError, match="is a folder"):
        read.read("EFI")
    with pytest.raises(FatError, match="is a file"):
        read.list("empty")
    with pytest.raises(FatError, match="cut off"):
        Fat32(io.BytesIO(b"x" * 100))
    with pytest.raises(FatError, match="no FAT32"):
        Fat32(io.BytesIO(b"x" * SECTOR))


def written(files: dict[str, bytes], folder: Path) -> Path:
    path = folder / "esp"
    path.write_bytes(disk_of(files, size=64 << 20))
    return path


def output(*command: str | Path) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.skipif(shutil.which(FSCK) is None, reason="needs fsck.fat (Debian: dosfstools)")
def test_fsck_finds_nothing(tmp_path: Path) -> None:
    many = {f"folder {number % 3}/{'n' * (number % 40)}{number}": bytes(number * 50) for number in range(200)}
    for files in ({}, FILES, many):
        esp = written(files, tmp_path)
        assert "wrong" not in output(FSCK, "-n", "-v", esp).decode()
    damaged = bytearray(esp.read_bytes())
    damaged[32 * SECTOR + 4 * 3 + 1] ^= 1
    esp.write_bytes(damaged)
    with pytest.raises(subprocess.CalledProcessError):
        output(FSCK, "-n", "-v", esp)


@pytest.mark.skipif(shutil.which("mtype") is None, reason="needs mtype (Debian: mtools)")
def test_mtools_reads_every_file(tmp_path: Path) -> None:
    esp = written(FILES, tmp_path)
    for path, data in FILES.items():
        assert output("mtype", "-i", esp, f"::/{path}") == data
