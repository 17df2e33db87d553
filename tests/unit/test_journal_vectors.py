"""The vectors of `tests/vectors/journal`, read by both readers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journal_vectors import DEVICES, FOLDER, read
from tests.torture.readers import RustReader, read_in_python
from vboot.journal.device import Device
from vboot.journal.recovery import recover


@pytest.fixture(scope="module")
def rust() -> Iterator[RustReader]:
    with RustReader() as reader:
        yield reader


def test_every_vector_is_described() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DEVICES)


@pytest.mark.parametrize("name", DEVICES)
def test_both_readers_find_what_is_described(name: str, rust: RustReader, tmp_path: Path) -> None:
    vector, data, path = read(name), DEVICES[name](), tmp_path / "device.img"
    assert (len(data), hashlib.sha256(data).hexdigest()) == (vector["bytes"], vector["sha256"])
    path.write_bytes(data)
    assert read_in_python(path) == vector["found"]
    told = rust.read(path)
    assert {field: told.get(field) for field in vector["found"]} == vector["found"]


def test_the_file_of_a_journal_is_read(tmp_path: Path) -> None:
    path = tmp_path / "device.img"
    path.write_bytes(DEVICES["other_model"]())
    with Device(path) as device:
        superblock = recover(device).superblock
    assert superblock is not None
    assert superblock.file == b"\x55" * 32
