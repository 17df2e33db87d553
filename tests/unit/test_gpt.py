from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image import gpt
from image.gpt import ALIGNMENT, BACKUP_BYTES, SECTOR, Gpt, GptError, Partition

TYPE = UUID("558e6d26-d192-4368-86ac-d256d94b165d")
ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
NAMESPACE = UUID(int=1)
SGDISK = "/usr/sbin/sgdisk"


def table(*sizes: int) -> Gpt:
    wanted = [
        Partition(f"part {number}", ESP if number == 0 else TYPE, uuid5(NAMESPACE, str(number)), 0, size)
        for number, size in enumerate(sizes)
    ]
    partitions, disk_size = gpt.lay_out(wanted)
    return Gpt(uuid5(NAMESPACE, "disk"), partitions, disk_size)


def disk_of(made: Gpt) -> bytes:
    head, tail = gpt.render(made)
    return head + bytes(made.disk_size - len(head) - len(tail)) + tail


def reread(data: bytes) -> Gpt:
    return gpt.read(io.BytesIO(data), disk_size=len(data))


def test_what_was_written_reads_the_same() -> None:
    made = table(3 * ALIGNMENT, ALIGNMENT + 1, 5)
    assert [part.size // ALIGNMENT for part in made.partitions] == [3, 2, 1]
    assert all(part.start % ALIGNMENT == 0 for part in made.partitions)
    assert reread(disk_of(made)) == made
    assert [part.name for part in made.of_type(TYPE)] == ["part 1", "part 2"]


def test_a_damaged_primary_table_is_replaced_by_the_backup() -> None:
    made = table(ALIGNMENT)
    data = bytearray(disk_of(made))
    data[SECTOR + 60] ^= 1
    assert reread(bytes(data)) == replace(made, copy="backup")
    data[-SECTOR + 60] ^= 1
    with pytest.raises(GptError, match=r"primary header's CRC .*; the backup header's CRC"):
        reread(bytes(data))


def test_both_copies_are_read_where_both_must_be_sound() -> None:
    made = table(ALIGNMENT)
    data = bytearray(disk_of(made))
    larger = bytes(data) + bytes(ALIGNMENT)
    for whole in (bytes(data), larger):
        assert gpt.read_both(io.BytesIO(whole), disk_size=len(whole)) == made
    other = disk_of(replace(made, disk_guid=TYPE))
    for tail, why in ((bytes(BACKUP_BYTES), "the backup header does not"), (other[-BACKUP_BYTES:], "copies .* differ")):
        data[-BACKUP_BYTES:] = tail
        with pytest.raises(GptError, match=why):
            gpt.read_both(io.BytesIO(data), disk_size=len(data))


def test_a_larger_disk_has_the_table_of_the_image() -> None:
    made = table(ALIGNMENT)
    assert reread(disk_of(made) + bytes(7 * ALIGNMENT)) == made


@pytest.mark.parametrize("keep", [0, 100, SECTOR, 2 * SECTOR, gpt.PRIMARY_BYTES, 2 * ALIGNMENT])
def test_a_disk_that_was_cut_is_refused(keep: int) -> None:
    with pytest.raises(GptError):
        reread(disk_of(table(ALIGNMENT))[:keep])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made: replace(made, disk_size=made.disk_size + 1), "whole sectors"),
        (lambda made: replace(made, disk_size=SECTOR), "whole sectors"),
        (lambda made: replace(made, partitions=(made.partitions[0],) * 2), "overlaps"),
        (lambda made: replace(made, partitions=(replace(made.partitions[0], start=SECTOR),)), "overlaps"),
        (lambda made: replace(made, partitions=(replace(made.partitions[0], size=0),)), "whole sectors"),
        (lambda made: replace(made, partitions=(replace(made.partitions[0], size=made.disk_size),)), "outside"),
        (lambda made: replace(made, partitions=(replace(made.partitions[0], name="x" * 37),)), "longer than 36"),
    ],
)
def test_a_table_that_no_reader_takes_is_not_written(change: object, why: str) -> None:
    assert callable(change)
    with pytest.raises(GptError, match=why):
        gpt.render(change(table(ALIGNMENT)))


def test_more_partitions_than_there_are_entries_are_refused() -> None:
    with pytest.raises(GptError, match="at most 128 partitions, got 129"):
        gpt.render(table(*[1] * 129))
    assert len(reread(disk_of(table(*[1] * 128))).partitions) == 128


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_is_taken_for_another_table(data: st.DataObject) -> None:
    """Bytes of either copy are changed; what is read then is the table itself, or it is refused."""
    made = table(ALIGNMENT, 2 * ALIGNMENT)
    disk = bytearray(disk_of(made))
    places = st.one_of(st.integers(0, gpt.PRIMARY_BYTES - 1), st.integers(len(disk) - BACKUP_BYTES, len(disk) - 1))
    for at in data.draw(st.lists(places, min_size=1, max_size=6)):
        disk[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GptError):
        assert reread(bytes(disk)) in (made, replace(made, copy="backup"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4096), st.integers(0, 5))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    disk = bytearray(disk_of(table(ALIGNMENT)))
    disk[at * SECTOR : at * SECTOR + len(noise)] = noise
    with contextlib.suppress(GptError):
        reread(bytes(disk))


def sgdisk(*arguments: str | Path) -> str:
    command = [SGDISK, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.skipif(shutil.which(SGDISK) is None, reason="needs sgdisk (Debian: gdisk)")
def test_sgdisk_finds_the_table_right(tmp_path: Path) -> None:
    made = table(33 * ALIGNMENT, 2 * ALIGNMENT, 2 * ALIGNMENT)
    (tmp_path / "disk").write_bytes(disk_of(made))
    assert "No problems found" in sgdisk("-v", tmp_path / "disk")
    shown = sgdisk("-i", "2", tmp_path / "disk")
    assert str(TYPE).upper() in shown
    assert str(made.partitions[1].guid).upper() in shown
    assert re.search(rf"First sector: {made.partitions[1].start // SECTOR} ", shown)
    assert "Partition name: 'part 1'" in shown
