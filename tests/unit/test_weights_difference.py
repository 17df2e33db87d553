"""The edits between two states of a tensor: exact, few bytes, and no more than allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.difference import EDIT_BYTES, difference
from vboot.weights.edits import Dense, Edit, Sparse, pack
from vboot.weights.storage_types import block_of

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K", "I8", "F64")
_BLOCKS = 600


def finite_bytes(kind: str, seed: int) -> np.ndarray[Any, Any]:
    """Bytes below 0x40: no exponent of any type is all ones."""
    size = _BLOCKS * block_of(kind).bytes
    return np.random.default_rng(seed).integers(0, 0x40, size, np.uint8)


def applied(kind: str, before: np.ndarray[Any, Any], edits: tuple[Edit, ...]) -> bytes:
    elements = _BLOCKS * block_of(kind).elements
    return apply(edits, {"w": TensorData("w", kind, (elements,), before.tobytes())}, set())["w"]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    places=st.sets(st.integers(0, _BLOCKS - 1), min_size=1, max_size=40),
    most=st.integers(1, 12),
)
def test_the_edits_make_the_bytes(kind: str, places: set[int], most: int) -> None:
    size = block_of(kind).bytes
    before = finite_bytes(kind, 1)
    after = before.copy()
    for place in places:
        after[place * size : (place + 1) * size] ^= 0x11
    found = difference("w", kind, before, after)
    assert found is not None
    assert found.changed.tolist() == sorted(places)
    edits = found.edits(most)
    assert 1 <= len(edits) <= most
    assert applied(kind, before, edits) == after.tobytes()
    assert found.cost(most) == (len(edits), len(pack(edits)[1]))
    parts = list(found.split(64 * size))
    assert [place for part in parts for place in part.changed.tolist()] == sorted(places)
    assert all(part.changed[-1] - part.changed[0] < 64 for part in parts)
    spent = len(pack(edits)[1]) + len(edits) * EDIT_BYTES
    assert spent <= after.nbytes + EDIT_BYTES  # never more than the whole tensor


def test_equal_bytes_differ_in_nothing() -> None:
    data = finite_bytes("F16", 2)
    assert difference("w", "F16", data, data.copy()) is None


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0], [Dense]),  # 2 bytes, as against an index and a value
        (list(range(100)), [Dense]),  # a run
        ([*range(50), *range(60, 110)], [Dense]),  # a gap that costs less than another edit
        ([*range(50), *range(500, 550)], [Dense, Dense]),
        (list(range(0, 600, 100)), [Sparse]),
    ],
)
def test_the_cheapest_form_is_taken(places: list[int], expected: list[type[Edit]]) -> None:
    before = finite_bytes("F16", 3)
    after = before.copy()
    after.view("<u2")[places] ^= 0x0101
    found = difference("w", "F16", before, after)
    assert found is not None
    assert [type(edit) for edit in found.edits(8)] == expected


def test_ranges_begin_and_end_at_changes() -> None:
    before = finite_bytes("Q8_0", 4)
    after = before.copy()
    after[34 * 5 + 3] ^= 1
    after[34 * 400] ^= 1
    found = difference("w", "Q8_0", before, after)
    assert found is not None
    (first, second) = found.edits(2)
    assert isinstance(first, Dense)
    assert isinstance(second, Dense)
    assert [(each.offset, len(each.data)) for each in (first, second)] == [(34 * 5, 34), (34 * 400, 34)]
    (whole,) = found.edits(1)
    assert isinstance(whole, Dense)
    assert (whole.offset, len(whole.data)) == (34 * 5, 34 * 396)


def test_values_that_are_not_finite_are_sent_as_bytes() -> None:
    before = finite_bytes("F32", 5)
    after = before.copy()
    after.view("<f4")[[3, 300]] = [np.inf, np.nan]
    found = difference("w", "F32", before, after)
    assert found is not None
    assert {type(edit) for edit in found.edits(9)} == {Dense}
