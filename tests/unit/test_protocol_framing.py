"""Lines and blobs are read as they were written, in any pieces; no input makes the reader fail."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from vboot.errors import InputError
from vboot.protocol.framing import Incoming, Message, Reader, Spoilt, encode
from vboot.protocol.tables import BLOB_LIMIT, LINE_LIMIT

PROPERTY = settings(derandomize=True, deadline=None)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.builds(
    Message,
    st.dictionaries(TEXTS.filter(lambda name: name != "blob"), JSON, max_size=4),
    st.none() | st.binary(min_size=1, max_size=200),
)


def read(pieces: Iterable[bytes], reader: Reader | None = None) -> list[Incoming]:
    reader = reader or Reader()
    return [incoming for piece in pieces for incoming in reader.feed(piece)]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def announce(size: Any, crc: Any, **more: Any) -> bytes:
    return json.dumps({"result": {}, "blob": {"bytes": size, "crc32c": crc, **more}}).encode() + b"\n"


@PROPERTY
@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_messages_survive_the_wire_in_any_pieces(messages: list[Message], places: list[int]) -> None:
    data = b"".join(encode(message.members, message.blob) for message in messages)
    assert read(cut(data, places)) == messages


@PROPERTY
@given(MESSAGES)
def test_messages_survive_byte_by_byte(message: Message) -> None:
    data = encode(message.members, message.blob)
    assert read(data[at : at + 1] for at in range(len(data))) == [message]


@PROPERTY
@given(st.lists(st.binary(max_size=60) | st.just(announce(3, "00000000")) | st.just(b"\n"), max_size=20))
def test_any_bytes_are_read_the_same_in_any_pieces(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


@PROPERTY
@given(st.binary(max_size=300).filter(lambda noise: b"blob" not in noise))
def test_a_message_after_noise_and_a_newline_is_found(noise: bytes) -> None:
    greeting = {"vector_boot": {"version": "0.1.0"}}
    assert read([noise, b"\n", encode(greeting)])[-1] == Message(greeting)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"1", b"null", b"{", b"\xff{}", b'{"a":\xc3}', b"[" * 20_000, b"9" * 5000]
)
def test_a_line_that_is_no_object_is_spoilt(line: bytes) -> None:
    first, second = read([line + b"\n{}\n"])
    assert isinstance(first, Spoilt)
    assert second == Message({})


def test_the_longest_line_is_read_and_a_longer_one_dropped_once() -> None:
    longest = json.dumps({"a": ""}).encode()
    longest = longest.replace(b'""', b'"' + b"x" * (LINE_LIMIT - len(longest) - 1) + b'"') + b"\n"
    assert len(longest) == LINE_LIMIT
    assert [type(incoming) for incoming in read([longest])] == [Message]
    for pieces in ([b" " + longest], [b" ", longest], cut(b" " + longest, range(0, LINE_LIMIT, 1000))):
        assert read([*pieces, b"{}\n"]) == [Spoilt(f"a line of more than {LINE_LIMIT} bytes"), Message({})]


def test_a_flood_without_newline_is_not_kept() -> None:
    reader = Reader()
    assert len(read([b"x" * 50_000] * 100, reader)) == 1
    assert len(reader._line) <= LINE_LIMIT


def test_the_largest_blob_is_read() -> None:
    blob = bytes(range(256)) * (BLOB_LIMIT // 256)
    data = encode({"result": {}}, blob)
    reader = Reader()
    assert read([data[:-1]], reader) == []
    assert reader.in_blob
    assert read([data[-1:] + b"{}\n"], reader) == [Message({"result": {}}, blob), Message({})]
    assert not reader.in_blob


def test_a_blob_with_a_wrong_crc_is_consumed_and_spoilt() -> None:
    crc = crc32c(b"data")
    first, second = read([announce(4, f"{crc ^ 1:08x}") + b"data{}\n"])
    assert isinstance(first, Spoilt)
    assert "CRC" in first.why
    assert second == Message({})


@pytest.mark.parametrize(
    "line",
    [
        announce(0, "00000000"),
        announce(-1, "00000000"),
        announce(BLOB_LIMIT + 1, "00000000"),
        announce(2**70, "00000000"),
        announce(True, "00000000"),
        announce(4.0, "00000000"),
        announce("4", "00000000"),
        announce(4, "0000000"),
        announce(4, "0000000G"),
        announce(4, "0000000A"),
        announce(4, 0),
        announce(4, "00000000", more=1),
        b'{"blob":{"upload":"00000000000000000000000000000000"}}\n',
        b'{"blob":null}\n',
        b'{"blob":4}\n',
    ],
)
def test_an_announcement_that_is_none_is_spoilt_and_nothing_follows(line: bytes) -> None:
    first, second = read([line + b"{}\n"])
    assert isinstance(first, Spoilt)
    assert second == Message({})


def test_what_breaks_a_limit_is_not_written() -> None:
    with pytest.raises(InputError, match="does not fit a line"):
        encode({"a": "x" * LINE_LIMIT})
    for blob in (b"", bytes(BLOB_LIMIT + 1)):
        with pytest.raises(InputError, match="blob of"):
            encode({}, blob)
    for value in (float("nan"), b"bytes", {1, 2}):
        with pytest.raises(InputError, match="as JSON"):
            encode({"a": value})
    assert len(encode({"a": "x" * (LINE_LIMIT - 9)})) == LINE_LIMIT
