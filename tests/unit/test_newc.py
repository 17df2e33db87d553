from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initramfs import newc
from vboot.errors import InputError

TREE = [
    newc.directory("proc", mode=0o555),
    newc.char_device("dev/console", 5, 1),
    newc.file("init", b"#!/bin/sh\n", mode=0o755),
    newc.file("etc/empty", b""),
    newc.file("etc/ü", b"abc"),
    newc.symlink("bin/sh", "../init"),
]

parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
names = st.lists(parts.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map("/".join)
permissions = st.integers(0, 0o7777)
records = st.one_of(
    st.builds(lambda name, mode: newc.directory(name, mode=mode), names, permissions),
    st.builds(lambda name, data, mode: newc.file(name, data, mode=mode), names, st.binary(max_size=40), permissions),
    st.builds(newc.symlink, names, names),
    st.builds(newc.char_device, names, st.integers(0, newc.MAX_MAJOR), st.integers(0, newc.MAX_MINOR)),
)


def lies_below_a_leaf(tree: list[newc.Record]) -> bool:
    leaves = {record.name for record in tree if not stat.S_ISDIR(record.mode)}
    return any(record.name.startswith(f"{leaf}/") for record in tree for leaf in leaves)


trees = st.lists(records, max_size=8, unique_by=lambda record: record.name).map(
    lambda tree: sorted(tree, key=lambda record: record.name.count("/"))
).filter(lambda tree: not lies_below_a_leaf(tree))  # fmt: skip


def test_bytes_are_those_of_the_format() -> None:
    # ino, mode, uid, gid, nlink, mtime, file size, dev, dev, rdev, rdev, name size, checksum
    header = (
        "070701 00000001 000081A4 00000000 00000000 00000001 00000000 00000003" + " 00000000" * 4 + " 00000002 00000000"
    )
    trailer = "070701" + " 00000000" * 4 + " 00000001" + " 00000000" * 6 + " 0000000B 00000000"
    expected = header.replace(" ", "").encode() + b"a\0xyz\0" + trailer.replace(" ", "").encode() + b"TRAILER!!!\0"
    assert newc.archive([newc.file("a", b"xyz")]) == expected.ljust(512, b"\0")


def test_missing_parents_are_made_before_their_first_child() -> None:
    tree = newc.with_parents([newc.file("a/b/c", b""), newc.file("a/d", b"")])
    assert [record.name for record in tree] == ["a", "a/b", "a/b/c", "a/d"]
    assert all(record.mode == stat.S_IFDIR | 0o755 for record in tree[:2])


def test_a_listed_parent_keeps_its_mode() -> None:
    tree = newc.with_parents([newc.directory("a", mode=0o700), newc.file("a/b", b"")])
    assert [oct(record.mode & 0o7777) for record in tree] == ["0o700", "0o644"]


def test_cpio_lists_it(tmp_path: Path) -> None:
    listing = subprocess.run(
        ["cpio", "-itv", "--numeric-uid-gid"], input=newc.archive(TREE), capture_output=True, check=True,
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout.decode()  # fmt: skip
    words = [line.split() for line in listing.splitlines()]
    assert [(line[0], line[1], line[2], line[3]) for line in words] == [
        ("dr-xr-xr-x", "2", "0", "0"),
        ("drwxr-xr-x", "2", "0", "0"),
        ("crw-------", "1", "0", "0"),
        ("-rwxr-xr-x", "1", "0", "0"),
        ("drwxr-xr-x", "2", "0", "0"),
        ("-rw-r--r--", "1", "0", "0"),
        ("-rw-r--r--", "1", "0", "0"),
        ("drwxr-xr-x", "2", "0", "0"),
        ("lrwxrwxrwx", "1", "0", "0"),
    ]
    assert words[2][4:6] == ["5,", "1"]
    assert words[-1][-3:] == ["bin/sh", "->", "../init"]
    assert "Jan  1  1970" in listing


def test_cpio_extracts_it(tmp_path: Path) -> None:
    files = [record for record in TREE if not stat.S_ISCHR(record.mode)]
    done = subprocess.run(
        ["cpio", "-idm", "--no-absolute-filenames"], input=newc.archive(files), cwd=tmp_path, capture_output=True,
        check=True,
    )  # fmt: skip
    assert done.stderr.strip().endswith(b"2 blocks")
    for record in files:
        path = tmp_path / record.name
        assert path.lstat().st_mode == record.mode
        if stat.S_ISREG(record.mode):
            assert path.read_bytes() == record.data
            assert path.stat().st_mtime == 0
    assert (tmp_path / "bin/sh").readlink() == Path("../init")


@settings(deadline=None, derandomize=True)
@given(trees)
def test_read_gives_back_what_was_written(tree: list[newc.Record]) -> None:
    data = newc.archive(tree)
    assert newc.read(data) == newc.with_parents(tree)
    assert len(data) % 512 == 0


@settings(deadline=None, derandomize=True)
@given(st.data(), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_means_another_archive(data: st.DataObject, value: int) -> None:
    archive = bytearray(newc.archive(TREE))
    archive[data.draw(st.integers(0, len(archive) - 1))] = value
    try:
        records = newc.read(bytes(archive))
    except InputError:
        return
    assert newc.archive(records) == bytes(archive)


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 1100))
def test_read_refuses_garbage_and_cut_archives(garbage: bytes, length: int) -> None:
    for data in (garbage, newc.MAGIC + garbage, newc.archive(TREE)[:length]):
        with pytest.raises(InputError, match="newc archive"):
            newc.read(data)


class Huge(bytes):
    """Pretends to be 4 GiB long."""

    def __len__(self) -> int:
        return 1 << 32


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (newc.file("/init", b""), "relative to the root"),
        (newc.file("", b""), "relative to the root"),
        (newc.file("a//b", b""), "relative to the root"),
        (newc.file("a/", b""), "relative to the root"),
        (newc.file("./a", b""), "relative to the root"),
        (newc.file("a/../b", b""), "relative to the root"),
        (newc.file("a\0b", b""), "NUL"),
        (newc.file("\ud800", b""), "UTF-8"),
        (newc.file("TRAILER!!!", b""), "ends an archive"),
        (newc.file("a" * 256, b""), "at most 255"),
        (newc.file("a/" * 2047 + "bb", b""), "less than 4096"),
        (newc.file("big", Huge()), "below 4 GiB"),
        (newc.symlink("link", ""), "target"),
        (newc.symlink("link", "x" * 4096), "target"),
        (newc.symlink("link", "a\0b"), "target"),
        (newc.char_device("dev/x", 4096, 0), "beyond 4095:1048575"),
        (newc.char_device("dev/x", 0, 1 << 20), "beyond 4095:1048575"),
        (newc.char_device("dev/x", -1, 0), "beyond"),
        (newc.Record("x", stat.S_IFBLK | 0o600), "mode"),
        (newc.Record("x", 0o644), "mode"),
        (newc.Record("x", stat.S_IFDIR | 0o755, b"data"), "contents"),
        (newc.Record("x", stat.S_IFREG | 0o644, rdev=(1, 1)), "device number"),
    ],
)
def test_what_the_format_or_the_kernel_cannot_hold_is_refused_by_name(record: newc.Record, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        newc.archive([record])
    assert repr(record.name) in str(caught.value)


def test_longest_names_are_accepted() -> None:
    longest = "a/" * 2047 + "b"
    assert newc.read(newc.archive([newc.file("n" * 255, b""), newc.file(longest, b"")]))[-1].name == longest


@pytest.mark.parametrize(
    "tree",
    [
        [newc.file("a", b""), newc.file("a", b"")],
        [newc.file("a/b", b""), newc.directory("a")],
        [newc.file("a", b""), newc.file("a/b", b"")],
        [newc.symlink("a", "b"), newc.file("a/b", b"")],
    ],
    ids=["twice", "parent after child", "file as parent", "link as parent"],
)
def test_a_tree_the_kernel_would_cut_is_refused(tree: list[newc.Record]) -> None:
    with pytest.raises(InputError, match="entry 'a"):
        newc.archive(tree)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda archive: archive.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replaced(b"070701", b"070707"), "no 070701 header"),
        (lambda archive: archive[:14] + b"0000816G" + archive[22:], "mode is not 8 hexadecimal digits"),
        (lambda archive: archive[:46] + b"00000001" + archive[54:], "mtime is not what our writer writes"),
        (lambda archive: archive[:6] + b"00000007" + archive[14:], "inode is not what our writer writes"),
        (replaced(b"a\0xyz\0", b"a\0xyz!"), "padding is not zero"),
        (replaced(b"bb\0\0", b"bb\0!"), "padding is not zero"),
        (replaced(b"a\0xyz", b"\xff\0xyz"), "not UTF-8"),
        (lambda archive: archive + bytes(512), "expected zeros up to"),
        (lambda archive: archive[:-1] + b"!", "expected zeros up to"),
    ],
)
def test_read_names_what_is_wrong(change: Callable[[bytes], bytes], why: str) -> None:
    with pytest.raises(InputError, match=why):
        newc.read(change(newc.archive([newc.file("a", b"xyz"), newc.file("bb", b"")])))
