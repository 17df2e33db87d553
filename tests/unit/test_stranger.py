"""Readers and writers that were made from the specification alone agree with the project's, file for file."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import pytest

from builder.executable import CRATE, executable_path
from image.bert import ModelType
from image.compose import compose
from image.rts_file import write_rts
from tests.stranger import gguf_reader, rts_reader, writers
from tests.support.rts_vectors import Vector, load_vectors
from vboot.check import CheckError, check_file

Refusal: TypeAlias = tuple[str | None, str | None, int | None] | None

CORPUS = sorted((CRATE / "fuzz" / "corpus" / "gguf").iterdir())
TEST_KEY = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
DAMAGED_EACH = 50
_EXTREMES = (0, 1, 3, 7, 8, 9, 12, 13, 63, 64, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def ours(file: Path, data: bytes) -> Refusal:
    """What the project's reader says: rule, field and offset, or None where it accepts the file."""
    file.write_bytes(data)
    try:
        check_file(executable_path(), file)
    except CheckError as refusal:
        return refusal.rule, refusal.field, refusal.offset
    return None


def theirs(data: bytes) -> Refusal:
    """What the stranger's reader says."""
    try:
        gguf_reader.judge(data)
    except gguf_reader.BrokenRuleError as broken:
        return broken.rule, broken.field, broken.offset
    return None


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The file with one fault: cut, longer, a bit flipped, or a number replaced by an extreme one."""
    match draw.randrange(5):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            return data + bytes(draw.randrange(1, 40))
        case 2:
            at = draw.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case _:
            size = draw.choice((1, 4, 8))
            at = draw.randrange(len(data) - size)
            number = draw.choice(_EXTREMES) & ((1 << 8 * size) - 1)
            return data[:at] + number.to_bytes(size, "little") + data[at + size :]


@pytest.mark.parametrize("base", CORPUS, ids=lambda path: path.name)
def test_gguf_files_are_judged_alike(base: Path, tmp_path: Path) -> None:
    draw, file, data = random.Random(base.name), tmp_path / "model.gguf", base.read_bytes()
    assert (ours(file, data), theirs(data)) == (None, None)
    for _ in range(DAMAGED_EACH):
        changed = damaged(data, draw)
        assert ours(file, changed) == theirs(changed), changed.hex()


def test_the_damage_breaks_many_rules() -> None:
    found: Counter[str] = Counter()
    for base in CORPUS:
        draw, data = random.Random(base.name), base.read_bytes()
        found.update(refusal[0] or "" for _ in range(DAMAGED_EACH) if (refusal := theirs(damaged(data, draw))))
    assert len(found) >= 15, found


def judged(vector: Vector) -> tuple[str, str]:
    """The verdict of the stranger's reader, and the field that it refuses."""
    key = TEST_KEY if vector.key else None
    try:
        bootable = rts_reader.judge(vector.data, is_device=vector.device, key=key)
    except rts_reader.RefusedError as refusal:
        return "reject", refusal.field
    return "accept" if bootable else "accept-no-boot", "-"


@pytest.mark.parametrize("vector", load_vectors(), ids=lambda vector: vector.name)
def test_rts_vectors(vector: Vector) -> None:
    assert judged(vector) == (vector.verdict, vector.field)


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_the_model_tiny_is_composed_alike(kind: ModelType, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    compose("tiny", path, type=kind)
    assert path.read_bytes() == writers.composed_tiny(kind)


def test_images_are_written_alike(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(writers.composed_tiny("F16"))
    write_rts(tmp_path / "image.rts", binary=executable_path(), tensors=model)
    expected = writers.rts_file(executable_path().read_bytes(), model.read_bytes())
    assert (tmp_path / "image.rts").read_bytes() == expected
    assert rts_reader.judge(expected)
