from __future__ import annotations

import random
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image import verity
from image.verity import BLOCK, Hasher, Verity, VerityError

VERITYSETUP = "/usr/sbin/veritysetup"
# Every count of levels up to three, and its borders.
SIZES = [1, BLOCK, BLOCK + 1, 128 * BLOCK, 129 * BLOCK, 16384 * BLOCK, 16384 * BLOCK + 1]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.skipif(shutil.which(VERITYSETUP) is None, reason="needs veritysetup (Debian: cryptsetup-bin)")
@pytest.mark.parametrize("size", SIZES)
def test_veritysetup_makes_the_same_tree(tmp_path: Path, size: int) -> None:
    data = noise(size)
    found, tree = verity.hash_tree([data])
    padded = data.ljust(found.data_bytes, b"\0")
    (tmp_path / "disk").write_bytes(padded + tree)
    options = [
        "--no-superblock", "--format=1", "--hash=sha256", f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}",
        f"--data-blocks={found.data_blocks}", f"--hash-offset={found.data_bytes}", "--salt=-",
    ]  # fmt: skip
    disk = tmp_path / "disk"
    subprocess.run([VERITYSETUP, "verify", *options, disk, disk, found.root.hex()], check=True, timeout=120)
    (tmp_path / "theirs").write_bytes(padded)
    theirs = tmp_path / "theirs"
    shown = subprocess.run(
        [VERITYSETUP, "format", *options, theirs, theirs], check=True, capture_output=True, text=True, timeout=120
    )
    assert found.root.hex() in shown.stdout
    assert theirs.read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_the_size_of_the_tree_is_known_before(size: int) -> None:
    found, tree = verity.hash_tree([noise(size)])
    assert found.data_blocks == verity.data_blocks(size)
    assert len(tree) == verity.tree_bytes(found.data_blocks)
    assert found.total_bytes == found.data_bytes + len(tree)


def test_one_block_is_its_own_tree() -> None:
    assert verity.hash_tree([b"x"]) == (Verity(sha256(b"x".ljust(BLOCK, b"\0")).digest(), 1), b"")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=12))
def test_how_the_data_are_cut_makes_no_difference(sizes: list[int]) -> None:
    data = noise(sum(sizes) + 1)
    hasher = Hasher()
    at = 0
    for size in sizes:
        hasher.update(data[at : at + size])
        at += size
    hasher.update(memoryview(data)[at:])
    assert hasher.finish() == verity.hash_tree([data])


def test_damage_is_named() -> None:
    data = noise(200 * BLOCK)
    found, tree = verity.hash_tree([data])

    def require(data: bytes, tree: bytes) -> None:
        hasher = Hasher()
        hasher.update(data)
        hasher.require(found, tree, what="slot A")

    require(data, tree)
    with pytest.raises(VerityError, match=r"data of slot A have the root hash [0-9a-f]{64}:200, expected"):
        require(data[:-1] + bytes([data[-1] ^ 1]), tree)
    for damaged, block in ((tree[:-1] + b"\1", 2), (tree[:BLOCK], 1)):
        with pytest.raises(VerityError, match=rf"tree of slot A is damaged in its block {block}"):
            require(data, damaged)


def test_the_word_of_the_command_line_is_read_back() -> None:
    found, _ = verity.hash_tree([noise(5 * BLOCK)])
    assert verity.parse(str(found)) == found
    for wrong in ("", "00:1", f"{'0' * 64}:0", f"{'0' * 64}:-1", f"{'G' * 64}:1", f"{'0' * 64}:1 ", f"{'0' * 64}:٣"):
        with pytest.raises(VerityError, match=r"expected vector_boot\.verity="):
            verity.parse(wrong)


def test_no_data_have_no_tree() -> None:
    with pytest.raises(VerityError, match="no data"):
        verity.hash_tree([])
