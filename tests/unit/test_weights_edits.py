"""Edits and their wire form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vboot.errors import InputError
from vboot.weights.edits import SEEDED_FORMS, SPARSE_OPS, Dense, Edit, LowRank, Program, Seeded, Sparse, pack, unpack

_NAMES = st.text(min_size=1, max_size=20)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_SHAPE = (3, 2)


def _f32(values: list[float], rows: int = -1, columns: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
    array = np.array(values, np.float32)
    return array if columns is None else array.reshape(rows, columns)


@st.composite
def _sparse(draw: st.DrawFn) -> Sparse:
    elements = draw(st.dictionaries(st.integers(0, 2**64 - 1), st.floats(width=32), max_size=8))
    indices = np.array(sorted(elements), np.uint64)
    return Sparse(draw(_NAMES), draw(st.sampled_from(SPARSE_OPS)), indices, _f32(list(elements.values())))


@st.composite
def _low_rank(draw: st.DrawFn) -> LowRank:
    rank = draw(st.integers(1, 64))
    first = draw(st.floats(width=32))
    a = np.arange(_SHAPE[1] * rank, dtype=np.float32).reshape(_SHAPE[1], rank)
    a[0, 0] = first
    return LowRank("matrix", draw(_FLOATS), a, -np.arange(_SHAPE[0] * rank, dtype=np.float32).reshape(_SHAPE[0], rank))


_EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Dense, _NAMES, st.integers(0, 2**53), st.binary(max_size=40)),
    _sparse(),
    _low_rank(),
    st.builds(
        Seeded,
        _NAMES,
        st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
        st.sampled_from(SEEDED_FORMS),
        st.floats(0, 1),
        _FLOATS,
    ),
    st.builds(Program, _NAMES, st.binary(max_size=40)),
)


@settings(derandomize=True, deadline=None)
@given(st.lists(_EDITS, max_size=6))
def test_unpack_is_the_inverse_of_pack(edits: list[Edit]) -> None:
    members, blob = pack(edits)
    unpacked = unpack(json.loads(json.dumps(members)), blob, shapes={"matrix": _SHAPE})
    assert [type(edit) for edit in unpacked] == [type(edit) for edit in edits]
    assert pack(unpacked) == (members, blob)
    for before, after in zip(edits, unpacked, strict=True):
        for name, value in vars(before).items():
            other = getattr(after, name)
            if isinstance(value, np.ndarray):
                assert (value.shape, value.dtype, value.tobytes()) == (other.shape, other.dtype, other.tobytes())
            else:
                assert value == other


def test_the_wire_form_is_the_protocols() -> None:
    edits: list[Edit] = [
        Dense("d", 4, b"\1\2"),
        Sparse("s", "add", np.array([7], np.uint64), _f32([1.0])),
        LowRank("matrix", 0.5, _f32([1, 2], 2, 1), _f32([3, 4, 5], 3, 1)),
        Seeded("blk.*", "0123456789abcdef", "step", 0.25, 1),
        Program("evolved.0", b""),
    ]
    members, blob = pack(edits)
    assert members == [
        {"kind": "dense", "tensor": "d", "offset": 4, "blob": [0, 2]},
        {"kind": "sparse", "tensor": "s", "op": "add", "blob": [2, 12]},
        {"kind": "low_rank", "tensor": "matrix", "rank": 1, "scale": 0.5, "blob": [14, 20]},
        {"kind": "seeded", "tensors": "blk.*", "seed": "0123456789abcdef", "form": "step", "density": 0.25, "scale": 1},
        {"kind": "program", "tensor": "evolved.0", "blob": [34, 0]},
    ]
    sparse_part = bytes.fromhex("0700000000000000 0000803f")
    assert blob == b"\1\2" + sparse_part + np.array([1, 2, 3, 4, 5], "<f4").tobytes()
    assert pack([]) == ([], b"")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_MEMBER_NAMES = ("kind", "tensor", "tensors", "offset", "blob", "op", "rank", "scale", "seed", "form", "density")


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(("dense", "sparse", "low_rank", "seeded", "program")), st.data())
def test_unpack_of_any_members_gives_edits_or_an_input_error(kind: str, data: st.DataObject) -> None:
    likely = st.sampled_from(["matrix", "set", "normal", "0123456789abcdef", 0, 1, 0.5, [0, 12], [4, 20], [0, 0]])
    members = data.draw(st.dictionaries(st.sampled_from(_MEMBER_NAMES), likely | _JSON, max_size=7))
    blob = data.draw(st.binary(max_size=40))
    try:
        edits = unpack([{"kind": kind} | members], blob, shapes={"matrix": _SHAPE})
    except InputError:
        return
    assert len(edits) == 1


_DENSE: dict[str, Any] = {"kind": "dense", "tensor": "t", "offset": 0, "blob": [0, 4]}
_SEEDED: dict[str, Any] = {
    "kind": "seeded",
    "tensors": "t",
    "seed": "0" * 16,
    "form": "step",
    "density": 0.5,
    "scale": 1,
}
_FACTORS: dict[str, Any] = {"kind": "low_rank", "tensor": "t", "rank": 1, "scale": 1.0, "blob": [0, 16]}


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([{"kind": "denser"}], "edit 0 .* kind is 'denser'"),
        ([{}], "kind is None"),
        ([_DENSE, {**_DENSE, "tensor": 5}], "edit 1 .* 'tensor' cannot be 5"),
        ([_DENSE | {"ofset": 5}], "'ofset' is not a member of 'dense'"),
        ([{"kind": "dense", "tensor": "t", "blob": [0, 4]}], "lacks 'offset'"),
        ([_DENSE | {"offset": True}], "'offset' cannot be True"),
        ([_DENSE | {"offset": -1}], "'offset' cannot be -1"),
        ([_DENSE | {"blob": [0, 17]}], "leaves the blob of 16 bytes"),
        ([_DENSE | {"blob": [0, True]}], r"not \[offset, length\]"),
        ([_DENSE | {"blob": "0"}], r"not \[offset, length\]"),
        ([_DENSE, _DENSE | {"blob": [3, 4]}], "overlap"),
        ([_SEEDED | {"density": 1.01}], "'density' cannot be 1.01"),
        ([_SEEDED | {"seed": "0" * 15 + "G"}], "'seed' cannot be"),
        ([_SEEDED | {"form": "Normal"}], "'form' cannot be 'Normal'"),
        ([_SEEDED | {"scale": float("inf")}], "'scale' cannot be inf"),
        ([{"kind": "sparse", "tensor": "t", "op": "mul", "blob": [0, 12]}], "'op' cannot be 'mul'"),
        ([{"kind": "sparse", "tensor": "t", "op": "set", "blob": [0, 11]}], "11 bytes is not n u64 and n f32"),
        ([_FACTORS], "shape of its tensor is not known"),
        ([_FACTORS | {"tensor": "matrix"}], "16 bytes is not factors of rank 1"),
        ([_FACTORS | {"tensor": "matrix", "rank": 65}], "'rank' cannot be 65"),
    ],
)
def test_invalid_members_are_named(members: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(InputError, match=text):
        unpack(members, bytes(16), shapes={"matrix": _SHAPE})


def test_empty_parts_overlap_nothing() -> None:
    members: list[dict[str, Any]] = [_DENSE, {"kind": "program", "tensor": "evolved.0", "blob": [2, 0]}]
    assert unpack(members, bytes(4)) == (Dense("t", 0, bytes(4)), Program("evolved.0", b""))
