"""The user's file of pairs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.fitness import pairs_file
from evolution.fitness.contract import Pair
from vboot.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.builds(Pair, TEXTS, TEXTS), min_size=1), st.booleans(), st.sampled_from(["\n", "\r\n", "\n \n"]))
def test_what_json_writes_is_read_back(pairs: list[Pair], ascii_only: bool, end: str) -> None:
    lines = [json.dumps({"document": p.document, "query": p.query}, ensure_ascii=ascii_only) for p in pairs]
    assert pairs_file.parse(end.join(lines).encode(), name="x") == tuple(pairs)


@settings(derandomize=True, deadline=None)
@given(st.one_of(st.binary(), st.text('{}[]":,querydocumnt \\0\n').map(str.encode)))
def test_any_bytes_give_pairs_or_an_input_error(data: bytes) -> None:
    with contextlib.suppress(InputError):
        assert pairs_file.parse(data, name="x")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", "is not JSON"),
        (b'{"query": "\xff", "document": "d"}', "is not JSON"),
        (b'{"query": "q", "document": "d", "query": "r"}', "a member is given twice"),
        (b"[" * 50_000, "is not JSON"),
        (b"1" * 5000, "is not JSON"),
        (b'["q", "d"]', 'expected an object with exactly the members "query" and "document"'),
        (b'{"query": "q"}', "expected an object with exactly"),
        (b'{"query": "q", "document": "d", "id": 3}', "expected an object with exactly"),
        (b'{"query": 3, "document": "d"}', "query: expected a text"),
        (b'{"query": "q", "document": "  "}', "document: expected a text"),
        (b'{"query": "q", "document": "\\ud800"}', "document has a lone surrogate"),
        (b'{"query": "q", "document": "' + b"d" * 65_536 + b'"}', "is longer than 64 KiB"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(line: bytes, what: str) -> None:
    good = b'{"query": "q", "document": "d"}\n\n'
    with pytest.raises(InputError, match=f"^mine, line 3.*{what}"):
        pairs_file.parse(good + line, name="mine")


def test_a_file_is_read_with_the_mark_that_some_editors_write_first(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"query": "q", "document": "d"}\r\n')
    assert pairs_file.read(path) == (Pair("q", "d"),)


def test_a_file_without_pairs_or_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n \n")
    with pytest.raises(InputError, match="empty has no pairs"):
        pairs_file.read(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot read"):
        pairs_file.read(tmp_path)


def test_a_huge_file_is_refused_without_being_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(pairs_file.FILE_BYTES + 1)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        pairs_file.read(path)
