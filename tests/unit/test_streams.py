"""Moving bytes between files: chunks, digests, and copies inside the kernel."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
from pathlib import Path
from typing import Any, NoReturn

import pytest

from image.streams import CHUNK, consume, copy_range, read_chunks
from vboot.errors import InputError
from vboot.files import atomic_write

DATA = random.Random(2).randbytes(3 * CHUNK + 12_345)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize(("offset", "size"), [(0, len(DATA)), (7, 2 * CHUNK), (CHUNK, CHUNK), (5, 1), (5, 0)])
def test_consume_writes_and_hashes_the_same_bytes(tmp_path: Path, source: Path, offset: int, size: int) -> None:
    reports: list[int] = []
    with io.FileIO(source) as file, atomic_write(tmp_path / "copy") as target:
        digest = consume(read_chunks(file, offset=offset, size=size), target=target, progress=reports.append)
    expected = DATA[offset : offset + size]
    assert (tmp_path / "copy").read_bytes() == expected
    assert digest == hashlib.sha256(expected).digest()
    assert reports[-1:] == [size][: len(reports)]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copy_range_appends(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool) -> None:
    """The second way is what happens between file systems; one machine cannot be relied on to have two."""

    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        raise OSError(errno.EXDEV, "other file system")

    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    reports: list[int] = []
    with io.FileIO(source) as file, atomic_write(tmp_path / "copy") as target:
        target.write(b"before")
        copy_range(file, target, offset=9, size=2 * CHUNK + 1, progress=reports.append)
        assert target.tell() == len(b"before") + 2 * CHUNK + 1
        target.write(b"after")
        target.seek(0)
        target.write(b"B")
    assert (tmp_path / "copy").read_bytes() == b"Before" + DATA[9 : 9 + 2 * CHUNK + 1] + b"after"
    assert reports[-1] == 2 * CHUNK + 1


def test_a_source_that_ends_early_is_an_input_error(tmp_path: Path, source: Path) -> None:
    with io.FileIO(source) as file, atomic_write(tmp_path / "copy") as target:
        with pytest.raises(InputError, match="1 bytes too early"):
            copy_range(file, target, offset=0, size=len(DATA) + 1)
        with pytest.raises(InputError, match="1 bytes too early"):
            consume(read_chunks(file, offset=1, size=len(DATA)))
