from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cache import RECORD_NAME, Cache, FileEntry, StepEntry, open_cache, parse_record, render_record, step_key
from vboot.errors import InputError


def aged(path: Path, data: bytes) -> Path:
    """A file old enough for its stamp to be trusted."""
    path.write_bytes(data)
    time.sleep(0.03)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_hash_is_that_of_the_contents(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    assert Cache(tmp_path / "record").sha256(aged(tmp_path / "f", data)) == sha256(data)


def test_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file = aged(tmp_path / "f", b"one")
    cache = Cache(tmp_path / "record")
    cache.sha256(file)
    entry = cache.files[str(file)]
    cache.files[str(file)] = FileEntry(**{**vars(entry), "sha256": "remembered"})
    assert cache.sha256(file) == "remembered"


def test_change_of_equal_size_and_restored_mtime_is_seen(tmp_path: Path) -> None:
    file = aged(tmp_path / "f", b"one")
    before = file.stat()
    cache = Cache(tmp_path / "record")
    cache.sha256(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.sha256(file) == sha256(b"two")


def test_change_right_after_hashing_is_seen(tmp_path: Path) -> None:
    # Within one clock tick of the kernel both writes may have the same stamp.
    file = tmp_path / "f"
    cache = Cache(tmp_path / "record")
    for number in range(200):
        data = b"%03d" % number
        file.write_bytes(data)
        assert cache.sha256(file) == sha256(data)


def test_stamp_of_the_tick_of_hashing_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one")
    status = (tmp_path / "f").stat()

    def holds(ms_later: int) -> bool:
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return FileEntry(*stamp, status.st_ctime_ns + ms_later * 1_000_000, "ab").holds_for(status)

    assert [holds(0), holds(10), holds(30)] == [False, False, True]


def test_replaced_file_is_seen(tmp_path: Path) -> None:
    file, other = aged(tmp_path / "f", b"one"), aged(tmp_path / "g", b"two")
    cache = Cache(tmp_path / "record")
    cache.sha256(file)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.rename(file)
    assert cache.sha256(file) == sha256(b"two")


def test_large_file_is_hashed_once_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(9 << 20))
    events: list[tuple[str, int, int]] = []
    cache = Cache(tmp_path / "record")
    for _ in range(2):  # the second time at once, although the file is only just written
        cache.sha256(file, progress=lambda *event: events.append(event))
    assert events[0] == ("hashing large", 1 << 20, 9 << 20)
    assert events[-1] == ("hashing large", 9 << 20, 9 << 20)
    assert len(events) == 9


def test_record_survives(tmp_path: Path) -> None:
    file = aged(tmp_path / "f", b"one")
    step = StepEntry("k", {"p": "1"}, {"i": "2"}, {"d": "3"}, {"o": "4"}, {"fact": 5, "text": "six"})
    with open_cache(tmp_path / "out") as cache:
        cache.sha256(file)
        cache.steps["s"] = step
    with open_cache(tmp_path / "out") as cache:
        assert cache.steps == {"s": step}
        assert cache.files[str(file)].sha256 == sha256(b"one")


def test_record_forgets_files_that_are_gone(tmp_path: Path) -> None:
    file = aged(tmp_path / "f", b"one")
    with open_cache(tmp_path) as cache:
        cache.sha256(file)
    file.unlink()
    with open_cache(tmp_path) as cache:
        pass
    assert str(file) not in (tmp_path / RECORD_NAME).read_text()


def test_record_is_kept_when_the_build_fails(tmp_path: Path) -> None:
    file = aged(tmp_path / "f", b"one")

    def interrupted_build() -> None:
        with open_cache(tmp_path / "out") as cache:
            cache.sha256(file)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_build()
    assert str(file) in (tmp_path / "out" / RECORD_NAME).read_text()


def test_reading_the_record_writes_nothing(tmp_path: Path) -> None:
    with open_cache(tmp_path / "out", writing=False) as cache:
        assert cache.steps == {}
    assert not (tmp_path / "out").exists()


def test_two_builds_in_one_folder(tmp_path: Path) -> None:
    with (
        open_cache(tmp_path),
        pytest.raises(InputError, match="another build is writing to"),
        open_cache(tmp_path),
    ):
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written to"), open_cache(tmp_path / "file"):
        pass


def test_key_depends_on_name_parameters_and_contents_not_on_paths() -> None:
    key = step_key("s", parameters={"p": "1", "q": "2"}, inputs={"/a": "x", "/b": "y"})
    assert key == step_key("s", parameters={"q": "2", "p": "1"}, inputs={"/c": "x", "/d": "y"})
    others = [
        step_key("t", parameters={"p": "1", "q": "2"}, inputs={"/a": "x", "/b": "y"}),
        step_key("s", parameters={"p": "1", "q": "3"}, inputs={"/a": "x", "/b": "y"}),
        step_key("s", parameters={"p": "1"}, inputs={"/a": "x", "/b": "y"}),
        step_key("s", parameters={"p": "1", "q": "2"}, inputs={"/a": "y", "/b": "x"}),
        step_key("s", parameters={"p": "1", "q": "2"}, inputs={"/a": "x"}),
    ]
    assert len({key, *others}) == 6


RECORD = render_record(
    {"/f": FileEntry(1, 2, 3, 4, 5, "ab")},
    {"s": StepEntry("k", {"p": "1"}, {"i": "2"}, {}, {"o": "4"}, {"fact": 5})},
)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b'{"version": 1}', b"\xff", b"[" * 5000])
def test_damaged_record_is_an_empty_memory(data: bytes) -> None:
    assert parse_record(data) == ({}, {})


@pytest.mark.parametrize(
    ("kind", "member", "value"),
    [("files", "size", "1"), ("files", "mtime_ns", 1.5), ("files", "sha256", None), ("files", "surplus", 1),
     ("steps", "key", 1), ("steps", "inputs", ["i"]), ("steps", "outputs", {"o": 1}), ("steps", "facts", {"f": None})],
)  # fmt: skip
def test_record_with_wrong_types_is_an_empty_memory(kind: str, member: str, value: object) -> None:
    document = json.loads(RECORD)
    next(iter(document[kind].values()))[member] = value
    assert parse_record(json.dumps(document).encode()) == ({}, {})


def test_record_of_another_version_is_an_empty_memory() -> None:
    document = json.loads(RECORD)
    assert parse_record(json.dumps(document | {"version": 2}).encode()) == ({}, {})


@given(st.integers(0, len(RECORD) - 1), st.binary(max_size=3), st.integers(0, 8))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_damage_gives_a_memory_and_no_error(position: int, replacement: bytes, removed: int) -> None:
    files, steps = parse_record(RECORD[:position] + replacement + RECORD[position + removed :])
    render_record(files, steps)
    for entry in steps.values():
        assert all(isinstance(value, str) for value in {**entry.inputs, **entry.outputs}.values())
