"""Recipes as people write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.weights import recipe, recipe_form
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse, pack
from vboot.weights.recipe import load
from vboot.weights.storage_types import decode, encode

_TYPES = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "q8": "Q8_0",
    "q4": "Q4_0",
    "i8": "I8",
    "i32": "I32",
    "f64": "F64",
}


def lookup(name: str) -> TensorInfo:
    if name not in _TYPES:
        raise InputError(f"there is no tensor {name!r}", remedy="see `tensors`")
    return TensorInfo(name, _TYPES[name], (64,), 256, protected=False)


def from_json(folder: Path, *edits: dict[str, Any], **members: Any) -> recipe.Recipe:
    path = folder / "recipe.json"
    path.write_text(json.dumps({"edits": edits} | members), "utf-8")
    return load(path, lookup)


def one_edit(folder: Path, **members: Any) -> Edit:
    (edit,) = from_json(folder, members).edits
    return edit


def test_the_recipes_of_the_help_are_accepted(tmp_path: Path) -> None:
    """The minimal one in both languages, and the example of every kind of edit."""
    noise = Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.01, 0.001)
    for text, name in ((recipe_form.minimal_toml(), "a.toml"), (recipe_form.minimal_json(), "a.json")):
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name, lookup) == recipe.Recipe((noise,), 0.9, None, None)
        indented = "\n".join(f"    {line}" if line else "" for line in text.strip().split("\n"))
        assert f"\n\n{indented}\n\n" in recipe_form.recipe_help()
    np.save(tmp_path / "a.npy", np.ones((2, 1), np.float32))
    np.save(tmp_path / "b.npy", np.ones((3, 1)))
    blocks = re.findall(r"\n\n((?:    .*\n?)+)", recipe_form.recipe_help())[2:]
    (tmp_path / "all.toml").write_text(re.sub("^    ", "", "\n".join(blocks), flags=re.MULTILINE))
    read = load(tmp_path / "all.toml", lambda name: TensorInfo(name, "F16", (384,), 768, protected=False))
    dense, sparse, low_rank, seeded, program = read.edits
    assert dense == Dense("blk.0.attn_q.bias", 0, bytes.fromhex("003800b4"))
    assert isinstance(sparse, Sparse)
    assert (sparse.tensor, sparse.op, sparse.indices.tolist()) == ("token_embd.weight", "add", [7, 1000])
    assert (sparse.indices.dtype.name, sparse.values.dtype.name) == ("uint64", "float32")
    assert isinstance(low_rank, LowRank)
    assert (low_rank.scale, low_rank.a.shape, low_rank.b.dtype.name) == (0.01, (2, 1), "float32")
    assert (seeded, program) == (noise, Program("evolved.0", bytes.fromhex("fa0200ff0000")))


@pytest.mark.parametrize("kind", recipe_form.KINDS)
def test_the_help_names_every_member_of_a_kind(kind: str, tmp_path: Path) -> None:
    form = recipe_form.KINDS[kind]
    section = recipe_form.recipe_help().partition(f'kind = "{kind}": ')[2].partition("\n\nkind = ")[0]
    listed = dict(re.findall(r"^  (\w+) +(required|optional|one of these) ", section, re.MULTILINE))
    assert {name for name, need in listed.items() if need == "required"} == {*form.required} - {"kind"}
    assert {*listed, "kind"} == {*form.members}
    for name in form.required[1:]:  # the parser requires what the help says
        with pytest.raises(InputError, match=f"{name} is missing"):
            from_json(tmp_path, {key: value for key, value in form.example.items() if key != name})


def test_the_minimal_recipe_holds_nothing_that_could_be_left_out(tmp_path: Path) -> None:
    form = recipe_form.KINDS["seeded"]
    for name in form.example.keys() - {"kind"}:
        with pytest.raises(InputError, match=f"{name} is missing"):
            from_json(tmp_path, {key: value for key, value in form.example.items() if key != name})


def test_what_is_left_open_is_none(tmp_path: Path) -> None:
    read = from_json(tmp_path)
    assert read == recipe.Recipe((), None, None, None)


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({"tensor": "f32", "value": -0.0}, bytes.fromhex("00000080")),
        ({"tensor": "f16", "value": 1, "count": 3}, bytes.fromhex("003c") * 3),
        ({"tensor": "bf16", "values": [1, -2.0]}, bytes.fromhex("803f00c0")),
        ({"tensor": "i8", "values": [-128, 127]}, b"\x80\x7f"),
        ({"tensor": "i32", "value": 258}, b"\2\1\0\0"),
        ({"tensor": "f64", "values": [1e300]}, np.array([1e300], "<f8").tobytes()),
        ({"tensor": "q8", "value": 1.0, "count": 32}, encode("Q8_0", np.ones(32, np.float32)).tobytes()),
        ({"tensor": "q4", "hex": "00 01 fF"}, b"\x00\x01\xff"),
        ({"tensor": "unknown", "base64": "AAH/"}, b"\x00\x01\xff"),
        ({"tensor": "f32", "values": []}, b""),
    ],
)
def test_dense_bytes(tmp_path: Path, members: dict[str, Any], data: bytes) -> None:
    assert one_edit(tmp_path, kind="dense", offset=8, **members) == Dense(members["tensor"], 8, data)


def test_files_lie_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(b"\1\2\3")
    np.save(tmp_path / "numbers.npy", np.array([[1, 2], [3, 4]]))
    assert one_edit(tmp_path, kind="dense", tensor="q4", file="raw.bin") == Dense("q4", 0, b"\1\2\3")
    assert one_edit(tmp_path, kind="program", tensor="evolved.1", file="raw.bin") == Program("evolved.1", b"\1\2\3")
    for source in ("file", "values"):
        edit = one_edit(tmp_path, kind="dense", tensor="f16", **{source: "numbers.npy"})
        assert isinstance(edit, Dense)
        assert decode("F16", np.frombuffer(edit.data, np.uint8)).tolist() == [1, 2, 3, 4]


def test_steps_need_no_scale(tmp_path: Path) -> None:
    members: dict[str, Any] = {"kind": "seeded", "tensors": "q*", "seed": "0" * 16, "form": "step", "density": 1}
    assert one_edit(tmp_path, **members) == Seeded("q*", "0" * 16, "step", 1, 1)


_SPARSE: dict[str, Any] = {"kind": "sparse", "tensor": "f32", "op": "set", "indices": [1, 2], "values": [0.5, 1]}
_FACTORS: dict[str, Any] = {"kind": "low_rank", "tensor": "f32", "scale": 1, "a": [[1, 2]], "b": [[1, 2]]}
_SEEDED: dict[str, Any] = {
    "kind": "seeded",
    "tensors": "*",
    "seed": "0" * 16,
    "form": "scale",
    "density": 1,
    "scale": 1,
}
_DENSE: dict[str, Any] = {"kind": "dense", "tensor": "f32"}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({}, "kind is None; make it dense"),
        ({"kind": "Dense"}, "kind is 'Dense'"),
        ({**_DENSE, "vaule": 1}, "'vaule' is unknown here; use kind, tensor, offset"),
        ({"kind": "dense", "hex": ""}, "tensor is missing"),
        ({**_DENSE, "tensor": 5, "hex": ""}, "tensor is 5; make it the name"),
        (_DENSE, "nothing is given; give one of values"),
        ({**_DENSE, "hex": "", "value": 1}, "value and hex is given"),
        ({**_DENSE, "hex": "0"}, "hex is '0'; make it a string of hex digits, two for each byte"),
        ({**_DENSE, "base64": "AAH"}, "base64 is 'AAH'; make it a string of base64, padded"),
        ({**_DENSE, "hex": "", "count": 2}, "count is given without value"),
        ({**_DENSE, "value": 1, "count": 65}, "make it at most 64"),
        ({**_DENSE, "value": True}, "value is True; make it a number"),
        ({**_DENSE, "offset": -4, "hex": ""}, "offset is -4"),
        ({**_DENSE, "values": [1, "2"]}, "values cannot be converted to float32: not all are numbers;"),
        ({**_DENSE, "values": [1, [2]]}, "values cannot be converted to float32: its rows differ in length;"),
        ({**_DENSE, "values": [1e39]}, "not all are finite"),
        ({**_DENSE, "values": [10**400]}, "values cannot be converted to float32: an integer is too large;"),
        ({**_DENSE, "value": 10**400}, "value is 1000"),
        ({**_SEEDED, "scale": 10**400}, "scale is 1000"),
        ({**_SEEDED, "density": 10**400}, "density is 1000"),
        ({**_DENSE, "tensor": "i8", "values": [128]}, "must be -128 to 127"),
        ({**_DENSE, "tensor": "i8", "values": [1.5]}, "values cannot be converted to int8: not all are whole numbers;"),
        ({**_DENSE, "tensor": "q4", "values": [1.5]}, "values cannot become Q4_0; give the bytes"),
        ({**_DENSE, "tensor": "q8", "values": [1.5]}, "give whole blocks of 32"),
        ({**_DENSE, "tensor": "none", "value": 1}, "tensor: there is no tensor 'none'; see `tensors`"),
        ({**_DENSE, "file": "none.bin"}, "'none.bin' cannot be read"),
        ({**_DENSE, "file": "a\0b"}, "cannot be read"),
        ({**_DENSE, "file": "recipe.npy"}, "'recipe.npy' is not a .npy file of numbers;"),
        ({**_SPARSE, "op": "mul"}, "op is 'mul'; make it set or add"),
        ({**_SPARSE, "indices": [2, 2]}, "indices do not increase"),
        ({**_SPARSE, "indices": [-1, 2]}, "must be 0 to"),
        ({**_SPARSE, "indices": [1]}, "1 indices and 2 values"),
        (
            {**_SPARSE, "indices": [[1, 2]]},
            "indices is 2-dimensional, not 1-dimensional; make it a list of element",
        ),
        ({**_FACTORS, "a": [1, 2]}, "a is 1-dimensional, not 2-dimensional; make it a list of rows"),
        ({**_FACTORS, "a": [[1]]}, "rows of a have 1 numbers, rows of b 2"),
        ({**_FACTORS, "b": 5}, "b is 5"),
        ({**_SEEDED, "density": 1.5}, "density is 1.5"),
        ({**_SEEDED, "seed": "c0ffee"}, "seed is 'c0ffee'; make it 16 lower-case hex digits"),
        ({**_SEEDED, "form": "walk"}, "form is 'walk'"),
        ({**_SEEDED, "form": "step", "scale": 2}, "scale is 2; leave it out"),
        ({"kind": "program", "tensor": "evolved.0", "value": 1}, "'value' is unknown here"),
    ],
)
def test_mistakes_are_reported_with_place_and_remedy(tmp_path: Path, edit: dict[str, Any], text: str) -> None:
    (tmp_path / "recipe.npy").write_bytes(b"no array")
    with pytest.raises(InputError) as error:
        from_json(tmp_path, {"kind": "dense", "tensor": "f32", "hex": ""}, edit)
    assert text in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'recipe.json'}: edits[1]: ")
    assert error.value.remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not JSON"),
        ("[]", "the recipe is []"),
        ("{}", "edits is missing"),
        ('{"edits": [5]}', "edits[0] is 5"),
        ('{"edits": {}}', "edits is {}; make it a list"),
        ('{"edits": [], "confidense": 1}', "'confidense' is unknown here; use edits, confidence, origin, lease_ms"),
        ('{"edits": [], "confidence": NaN}', "confidence is nan"),
        ('{"edits": [], "lease_ms": 0}', "lease_ms is 0"),
        ('{"edits": [], "origin": 1}', "origin is 1"),
        ("[" * 100_000, "is not JSON"),
        ('{"edits": [', "; correct it"),
        (
            '{"edits": [], "confidence": 0.9, "confidence": 0.1}',
            "'confidence' appears twice in one object;",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=re.escape(expected)):
        load(path, lookup)


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.toml", lookup)
    (tmp_path / "bad.toml").write_bytes(b"edits = \xff")
    with pytest.raises(InputError, match=r"is not TOML.*; correct it"):
        load(tmp_path / "bad.toml", lookup)
    (tmp_path / "recipe.txt").write_text("edits = []")
    with pytest.raises(InputError, match=r"is not JSON.*; end the name of a TOML file in \.toml"):
        load(tmp_path / "recipe.txt", lookup)


def test_a_number_that_python_does_not_write_is_refused_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "huge.toml").write_text(f"edits = []\nconfidence = 0x{'f' * 9000}")
    with pytest.raises(InputError, match="confidence is a number of too many digits; make it a number"):
        load(tmp_path / "huge.toml", lookup)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300) | st.integers(),
    st.floats(),
    st.sampled_from([*_TYPES, "set", "add", "normal", "step", "00c0ffee00c0ffee", "recipe.json", "x.npy", "AAAA"]),
    st.lists(st.integers(0, 9) | st.floats() | st.lists(st.floats(), max_size=2), max_size=4),
)
_NAMES = ("tensor", "tensors", "offset", "values", "value", "count", "hex", "base64", "file", "op", "indices", "a", "b")
_MORE = ("seed", "form", "density", "scale")


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["dense", "sparse", "low_rank", "seeded", "program"]),
    st.dictionaries(st.sampled_from((*_NAMES, *_MORE)), _VALUES, max_size=6),
)
def test_any_members_are_an_edit_or_an_input_error(tmp_path: Path, kind: str, members: dict[str, Any]) -> None:
    try:
        read = from_json(tmp_path, {"kind": kind} | members)
    except InputError:
        return
    assert [described["kind"] for described in pack(read.edits)[0]] == [kind]
