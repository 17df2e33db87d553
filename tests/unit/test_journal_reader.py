"""The reader of state devices: what it finds on sound, damaged and foreign ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.state_devices import SIZE, StateWriter, image, mutation
from vboot.errors import InputError
from vboot.journal import tables
from vboot.journal.device import Device
from vboot.journal.entries import EntryError, Kind, parse_image, parse_mutation
from vboot.journal.recovery import Log, recover
from vboot.journal.superblock import superblocks
from vboot.journal.tables import AREA_START, BLOCK


def read(path: Path, data: bytes | bytearray) -> Log:
    path.write_bytes(data)
    with Device(path) as device:
        return recover(device)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.img"


def payload(path: Path, number: int) -> bytes:
    with Device(path) as device:
        log = recover(device)
        return log.payload(log.entries[number])


def reason(log: Log) -> str | None:
    return None if log.fault is None else log.fault.reason


def written(frames: int = 5) -> StateWriter:
    """A device with frames of one and two entries."""
    writer = StateWriter()
    for number in range(frames):
        first = writer.entry(Kind.PROMOTE, b"x" * (100 * number))
        writer.frame(*([first] if number % 2 else [first, writer.entry(Kind.RENEW, place=1)]))
    return writer


def test_the_kinds_are_those_of_the_specification() -> None:
    assert {kind.value: kind.name.lower() for kind in Kind} == tables.ENTRY_KINDS


def test_a_device_of_zeros_is_blank(path: Path) -> None:
    log = read(path, bytes(SIZE))
    assert (log.superblock, log.fault, log.entries) == (None, None, ())
    # Formatting was interrupted in the first superblock.
    log = read(path, tables.SUPERBLOCK_MAGIC + bytes(100) + b"part" + bytes(SIZE - 112))
    assert (log.superblock, log.fault) == (None, None)


@pytest.mark.parametrize("place", [0, 8, BLOCK, AREA_START, SIZE - 1])
def test_anything_else_is_foreign(path: Path, place: int) -> None:
    data = bytearray(SIZE)
    data[place] = 1
    assert reason(read(path, data)) == "foreign"


def test_superblocks_that_are_both_wrong_are_damage(path: Path) -> None:
    data = bytearray(SIZE)
    data[:8] = data[BLOCK : BLOCK + 8] = tables.SUPERBLOCK_MAGIC
    assert reason(read(path, data)) == "damaged"


@pytest.mark.parametrize("size", [0, 511, 4096, SIZE - 1])
def test_a_device_that_is_too_small(path: Path, size: int) -> None:
    assert reason(read(path, bytes(size))) == "too_small"


def test_every_entry_of_every_frame_is_found(path: Path) -> None:
    writer = written()
    log = read(path, writer.data)
    assert (log.fault, len(log.frames), len(log.entries), log.tail) == (None, 5, 8, writer.offset)
    assert [entry.head.sequence for entry in log.entries] == list(range(8))
    assert payload(path, 3) == b"x" * 200
    assert log.free_bytes == SIZE - AREA_START - writer.offset


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"least_reader": 2, "version": 2}, "newer"),
        ({"version": 2}, None),
        ({"area_offset": 4096}, "damaged"),
        ({"area_bytes": 0}, "damaged"),
        ({"area_bytes": 4095}, "damaged"),
        ({"start": 1}, "damaged"),
        ({"reach": 4097}, "damaged"),
        ({"start": 8192, "reach": 4096}, "damaged"),
        ({"area_bytes": SIZE}, "too_small"),
        ({"start": 4096, "start_frame": 1}, "damaged"),
    ],
)
def test_superblocks_that_are_refused(path: Path, fields: dict[str, int], expected: str | None) -> None:
    writer = StateWriter()
    writer.next_superblock(**fields)
    assert reason(read(path, writer.data)) == expected


def test_the_newer_superblock_counts_and_the_older_one_is_enough(path: Path) -> None:
    writer = written()
    newest = writer.fields["turn"]
    for place, turn in ((BLOCK * (newest % 2), newest - 1), (BLOCK * ((newest - 1) % 2), newest)):
        data = bytearray(writer.data)
        data[place + 100] ^= 1
        log = read(path, data)
        assert log.superblock is not None
        assert (log.superblock.turn, len(log.frames), log.fault) == (turn, 5, None)


def test_a_torn_tail_is_cut_and_a_damaged_middle_is_not(path: Path) -> None:
    writer = written()
    place = writer.place(4 * BLOCK)
    data = bytearray(writer.data)
    data[place + 300] ^= 1
    log = read(path, data)
    assert (log.fault, len(log.frames), log.tail) == (None, 4, 4 * BLOCK)
    data = bytearray(writer.data)
    data[writer.place(2 * BLOCK) + 170] ^= 1
    log = read(path, data)
    assert (reason(log), len(log.frames)) == ("damaged", 2)
    assert str(log.fault) == (
        f"offset {AREA_START + 2 * BLOCK}: frame 2: it is not right, "
        f"and frame 3 at offset {AREA_START + 3 * BLOCK} was written after it"
    )


def test_an_entry_that_is_not_valid_in_a_frame_that_is(path: Path) -> None:
    writer = written(1)
    entry = bytearray(writer.entry(Kind.PROMOTE))
    entry[20] ^= 1
    writer.frame(bytes(entry))
    log = read(path, writer.data)
    assert (reason(log), len(log.entries)) == ("damaged", 2)
    assert str(log.fault).startswith(
        f"offset {AREA_START + BLOCK + 160}: entry of frame 1: the checksum of its head is"
    )


@pytest.mark.parametrize("second", [False, True])
def test_frames_without_entries_and_images_that_are_not_first(path: Path, second: bool) -> None:
    writer = written(1)
    rest = [writer.entry(Kind.PROMOTE), writer.entry(Kind.IMAGE, image({}), place=1)] if second else []
    writer.frame(*rest)
    assert reason(read(path, writer.data)) == "damaged"


def test_a_ring_that_wraps(path: Path) -> None:
    """A frame crosses the end of the ring; what is left of the earlier turn is no frame of this one."""
    writer = StateWriter()
    large = bytes(5 << 20)
    for _ in range(2):
        writer.frame(writer.entry(Kind.PROMOTE, large))
    start = writer.start_at_next()
    writer.frame(writer.entry(Kind.IMAGE, image({})))
    writer.next_superblock(**start)
    writer.next_superblock()
    for _ in range(2):
        writer.frame(writer.entry(Kind.PROMOTE, large))
    log = read(path, writer.data)
    assert (log.fault, len(log.frames), log.tail) == (None, 3, writer.offset)
    assert payload(path, 2) == large
    assert log.superblock is not None
    assert log.tail > log.superblock.area_bytes


def test_a_copy_that_was_cut_short_is_read_as_far_as_it_goes(path: Path) -> None:
    writer = written()
    log = read(path, writer.data[: AREA_START + 3 * BLOCK])
    assert (reason(log), len(log.frames)) == ("too_small", 3)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "neither a file"),
        (tmp_path / "fifo", "neither"),
    ):
        with pytest.raises(InputError, match=why):
            Device(path)


def test_a_payload_that_was_overwritten_since(path: Path) -> None:
    writer = written()
    path.write_bytes(writer.data)
    with Device(path) as device:
        log = recover(device)
        with path.open("r+b") as file:
            file.seek(log.place(log.entries[3].offset) + tables.ENTRY_HEAD_BYTES)
            file.write(b"other")
        with pytest.raises(EntryError, match="its payload does not have the sum in its head"):
            log.payload(log.entries[3])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_or_is_where_nothing_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Damage leaves the whole log, or a fault and a prefix; the last frame may also look torn."""
    writer = written(4)
    end = AREA_START + writer.offset
    bit = data.draw(st.integers(0, 8 * end - 1))
    flipped = bytearray(writer.data)
    flipped[bit // 8] ^= 1 << (bit % 8)
    log = read(tmp_path_factory.getbasetemp() / "flipped.img", flipped)
    assert len(log.frames) == 4 or reason(log) == "damaged" or len(log.frames) == 3
    if len(log.frames) == 3 and log.fault is None:
        assert bit // 8 >= end - BLOCK
    expected = read(tmp_path_factory.getbasetemp() / "sound.img", writer.data).entries
    assert log.entries == expected[: len(log.entries)]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_payloads_of_any_bytes_raise_nothing_but_value_errors(payload: bytes) -> None:
    for parse in (parse_image, parse_mutation):
        with contextlib.suppress(ValueError):
            parse(payload)


def test_payloads() -> None:
    found = parse_image(image({3: b"p" * 4096, 9: b"q" * 4096}, [b"a" * 16, b"b" * 16]))
    assert (found.pages.tolist(), found.ids) == ([3, 9], (b"a" * 16, b"b" * 16))
    assert found.contents == b"p" * 4096 + b"q" * 4096
    assert parse_mutation(mutation([{"kind": "dense"}], b"blob")) == ([{"kind": "dense"}], b"blob")


@settings(max_examples=40, deadline=None)
@given(
    superblock=st.lists(st.tuples(st.integers(0, 2 * BLOCK), st.binary(min_size=1, max_size=40)), max_size=3),
    area=st.lists(st.tuples(st.integers(0, 6 * BLOCK), st.binary(min_size=1, max_size=200)), max_size=3),
)
def test_no_bytes_stop_the_reader(
    superblock: list[tuple[int, bytes]], area: list[tuple[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = written().data
    for place, changed in [*superblock, *((AREA_START + at, changed) for at, changed in area)]:
        data[place : place + len(changed)] = changed
    path = tmp_path_factory.getbasetemp() / "any.img"
    path.write_bytes(data)
    with Device(path) as device:
        log = recover(device)
        assert log.fault is None or str(log.fault)
        assert all(block is None or block.place in (0, BLOCK) for block in superblocks(device))
