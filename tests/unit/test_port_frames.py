from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evolution_port.frames import BLOB_LIMIT, blob_header, crc32c, encode, parse_line
from tests.support.evolution_port.transcript import Transcript, entry

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("data", "crc"),
    # The check value of CRC-32C, and two vectors of RFC 3720, B.4.
    [(b"123456789", "e3069283"), (bytes(32), "8a9136aa"), (b"\xff" * 32, "62a8ab43"), (b"", "00000000")],
)
def test_crc32c_is_castagnolis(data: bytes, crc: str) -> None:
    assert crc32c(data) == crc


@PROPERTY
@given(
    st.dictionaries(st.text(max_size=6).filter(lambda name: name != "blob"), JSON, max_size=4), st.binary(max_size=9)
)
def test_a_message_comes_back_as_it_was_sent(message: dict[str, object], blob: bytes) -> None:
    line = encode(message, blob or None)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    parsed = parse_line(line)
    assert parsed is not None
    header = blob_header(parsed)
    if blob:
        assert header is not None
        assert (header.size, header.crc32c) == (len(blob), crc32c(blob))
        del parsed["blob"]
    assert parsed == message


@PROPERTY
@given(st.binary(max_size=200))
def test_any_line_is_a_message_or_none(line: bytes) -> None:
    message = parse_line(line)
    assert message is None or blob_header(message) is None or isinstance(message["blob"], dict)


def test_a_line_that_nests_without_end_is_none() -> None:
    assert parse_line(b'{"a":' * 30_000) is None
    assert parse_line(b"[1]\n") is None


@pytest.mark.parametrize(
    "blob",
    [
        None,
        7,
        {"bytes": 0, "crc32c": "00000000"},
        {"bytes": BLOB_LIMIT + 1, "crc32c": "00000000"},
        {"bytes": True, "crc32c": "00000000"},
        {"bytes": 4.0, "crc32c": "00000000"},
        {"bytes": 4, "crc32c": "0000000G"},
        {"bytes": 4, "crc32c": "ABCDEF00"},
        {"bytes": 4},
        {"upload": "0" * 32},
    ],
)
def test_a_blob_member_that_announces_no_bytes_is_no_header(blob: object) -> None:
    assert blob_header({"blob": blob}) is None
    assert blob_header({}) is None


@PROPERTY
@given(st.binary(max_size=3000), st.booleans())
def test_a_transcript_record_is_one_json_line_that_tells_the_bytes(data: bytes, blob: bool) -> None:
    record = entry("in", data, blob=blob, monotonic=1.5, wall=2.5)
    assert json.loads(json.dumps(record)) == record
    assert record["bytes"] == len(data)
    if "text" in record:
        assert str(record["text"]).encode() == data
    else:
        assert base64.b64decode(str(record["base64"])) == data[:768]
        assert ("cut" in record) == (len(data) > 768)


def test_a_transcript_grows_record_by_record_and_cuts_what_is_long(tmp_path: Path) -> None:
    path = tmp_path / "channel.jsonl"
    for data in (b"one\n", b"", b"x" * 10_000):
        transcript = Transcript(path)
        transcript.record("out", data)
        transcript.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["dir"], record["bytes"], record.get("cut")) for record in records] == [
        ("out", 4, None),
        ("out", 10_000, True),
    ]
    assert len(records[1]["text"]) == 8192
