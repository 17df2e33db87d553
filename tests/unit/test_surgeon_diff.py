"""Differences of files, counted and measured by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from evolution.surgeon import GGUFSurgeon
from tests.support.gguf_models import Stored, matrix, write_model


def test_a_difference_is_counted_and_measured(tmp_path: Path) -> None:
    values = np.full((4, 32), 2.0)
    moved, more = values.copy(), values.copy()
    moved[1, 5], more[2:] = 5.0, 3.0
    plain = matrix(values)
    q4_0: Stored = ("Q4_0", (32, 1), bytes(18))
    kept = {"same": plain, "type": plain, "shape": plain, "gone": plain}
    first = kept | {"little": matrix(values, "F16"), "more": plain, "zero": matrix(0 * values), "q": q4_0}
    second = {
        "same": plain,
        "type": matrix(values, "F16"),
        "shape": matrix(values.T),
        "new": plain,
        "little": matrix(moved, "F16"),
        "more": matrix(more),
        "zero": plain,
        "q": ("Q4_0", (32, 1), b"\0\x3c" + bytes(16)),
    }
    surgeon = GGUFSurgeon(write_model(tmp_path / "a", first))
    found = surgeon.diff(write_model(tmp_path / "b", second, note="another"))
    by_name = {each.name: each for each in found.tensors}
    assert (found.same, found.metadata, found.models[0]) == (1, ("test.note",), surgeon.digest())
    assert {*list(by_name)[:4]} == {"type", "shape", "gone", "new"}
    assert list(by_name)[4:] == ["zero", "q", "more", "little"]
    little, more_ = by_name["little"], by_name["more"]
    assert (little.bytes, little.changed_bytes, little.blocks, little.changed_blocks) == (256, 1, 128, 1)
    assert (little.l2, little.max, little.relative) == (3.0, 3.0, 3 / math.sqrt(128 * 4))
    assert (more_.changed_blocks, more_.l2, more_.max) == (64, 8.0, 1.0)
    assert (by_name["zero"].relative, by_name["zero"].max) == (None, 2.0)
    assert (by_name["q"].changed_blocks, by_name["q"].max) == (1, 8.0)
    assert (by_name["type"].types, by_name["type"].l2, by_name["type"].changed_bytes) == (("F32", "F16"), 0.0, None)
    assert (by_name["gone"].types, by_name["gone"].shapes, by_name["gone"].l2) == (("F32", None), ((32, 4), None), None)
    assert (by_name["shape"].shapes, by_name["shape"].l2) == (((32, 4), (4, 32)), None)
