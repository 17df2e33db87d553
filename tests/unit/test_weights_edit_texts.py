"""Edits as they are typed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vboot.errors import InputError
from vboot.weights.edits import Dense, Sparse, pack, parse_bytes, parse_elements


def unread(_path: str) -> bytes:
    raise AssertionError


def test_elements_by_tensor_and_in_order() -> None:
    first = Sparse("b", "set", np.array([3, 9], np.uint64), np.array([0.5, 1], np.float32))
    second = Sparse("a", "set", np.array([0], np.uint64), np.array([-2.5e-3], np.float32))
    assert pack(parse_elements(["b[9]=1", "a[0]=-2.5e-3", "b[3]=.5"])) == pack([first, second])


def test_names_may_hold_brackets() -> None:
    (edit,) = parse_elements(["a[1][2]=3"])
    assert (edit.tensor, edit.indices.tolist()) == ("a[1]", [2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1", r"expected TENSOR\[INDEX\]=VALUE, got a=1; write TENSOR"),
        ("a[-1]=1", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("a[]=1", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("a[0]=", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("a[0]=nan", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("a[0]=1.2.3", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("[0]=1", r"expected TENSOR\[INDEX\]=VALUE, got"),
        ("\x1b[0]=x", r"\\x1b"),
        ("a[0]=1e39", "1e39 is too large for f32"),
    ],
)
def test_what_is_no_element(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_elements([text])


def test_an_element_is_set_once() -> None:
    with pytest.raises(InputError, match=r"a\[7\] is set twice"):
        parse_elements(["a[7]=1", "b[7]=1", "a[07]=1"])


def test_bytes_in_hex_or_of_a_file() -> None:
    assert parse_bytes("w@34=00ff", read=unread) == Dense("w", 34, b"\0\xff")
    assert parse_bytes("w@0=@new.bin", read=lambda path: path.encode()) == Dense("w", 0, b"new.bin")


@pytest.mark.parametrize("text", ["w", "w@1", "w@=00", "w@-1=00", "w@1=", "@1=00", "w@1=0", "w@1=xy", "w@1=0x00"])
def test_what_are_no_bytes(text: str) -> None:
    with pytest.raises(InputError, match="TENSOR@OFFSET=HEX"):
        parse_bytes(text, read=unread)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[a-z\[]{1,4}\[[0-9]{1,3}\]=[-+.e0-9]{1,9}", fullmatch=True))
def test_any_text_is_an_edit_or_refused(text: str) -> None:
    for parse in (lambda: parse_elements([text])[0], lambda: parse_bytes(text, read=lambda _path: b"")):
        try:
            edit = parse()
        except InputError:
            continue
        assert text.startswith(edit.tensor)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.integers(0, 10**6), st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_elements_are_read_as_they_were_written(elements: dict[int, float]) -> None:
    (edit,) = parse_elements([f"w[{index}]={value!r}" for index, value in elements.items()])
    assert dict(zip(edit.indices.tolist(), edit.values.tolist(), strict=True)) == elements
