"""File names and foreign text as they are printed, put into JSON, quoted for a shell and read back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.file_names import ODD_NAMES, ODDEST_NAME
from vboot.text import json_text, parse_path, path_json, path_text, printable, shell_join

names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not set(name) & set(b"\0/") and name not in (b".", b"..")
)


@given(names)
def test_a_path_survives_text_and_json(name: bytes) -> None:
    path = Path("/folder") / os.fsdecode(name)
    assert path_text(path).isprintable()
    assert parse_path(path_text(path)) == path
    in_json: str = json.loads(json_text({"path": path}))["path"]
    in_json.encode()
    assert parse_path(in_json) == path
    assert in_json == path_json(path)


def test_a_path_is_shown_as_it_is_wherever_that_is_possible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert path_text(Path("a b/é,%20'")) == "a b/é,%20'"
    assert path_json(Path("a\nb")) == "a\nb"
    # A URI is absolute.
    assert path_text(Path("a\nb c")) == f"file://{tmp_path}/a%0Ab%20c"
    assert path_json(Path(os.fsdecode(b"\xff"))) == f"file://{tmp_path}/%FF"
    assert parse_path("file:/x") == Path("file:/x")
    with pytest.raises(ValueError, match="zero byte"):
        parse_path("file:///a%00b")


def test_json_is_valid_whatever_the_text() -> None:
    value = {"a": "\udcff\ud83d \U0001f600 \\udcff é", "b\udc80": [1, None], "c": "\\\udc81"}
    text = json_text(value, indent=1)
    assert text.isascii()
    assert json.loads(text) == {"a": "\\xff\ufffd \U0001f600 \\udcff é", "b\\x80": [1, None], "c": "\\\\x81"}
    text.encode()


def test_what_cannot_be_printed_is_spelled_out() -> None:
    assert printable("é \x1b[0m\n\udcff\u2028") == r"é \x1b[0m\n\xff\u2028"


@pytest.mark.parametrize("name", [*ODD_NAMES.values(), ODDEST_NAME])
def test_a_quoted_word_means_itself_to_a_shell(name: str) -> None:
    quoted = shell_join(["printf", "%s", name])
    assert quoted.isprintable()
    done = subprocess.run(["bash", "-c", os.fsencode(quoted)], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
