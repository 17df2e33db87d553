"""Calling the Rust reader: faults of the program. What it accepts is tested with the real one (test_cli.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vboot.check import CheckError, check_file
from vboot.errors import InputError, ToolError

Reader = Callable[[str], Path]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    def write(script: str) -> Path:
        path = tmp_path / "reader"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "-x.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_report_of_an_accepted_file(reader: Reader, file: Path) -> None:
    assert check_file(reader("""echo '{"ok": true, "kind": "gguf"}'"""), file) == {"ok": True, "kind": "gguf"}


def test_file_is_named_absolutely_and_the_key_in_a_file(
    reader: Reader, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    script = """printf '{"ok": true, "arguments": "%s", "key": "%s"}' "$*" "$(od -An -tx1 "$4" | tr -d ' \\n')" """
    report = check_file(reader(script), Path("-x.gguf"), public_key=bytes(range(32)))
    assert report["key"] == bytes(range(32)).hex()
    assert report["arguments"].startswith("check --json --key /")
    assert report["arguments"].endswith(f" {file}")
    assert not Path(report["arguments"].split()[3]).exists()


def test_refusal(reader: Reader, file: Path) -> None:
    report = {"ok": False, "file": "f", "rule": "R13", "field": "name", "offset": 99, "text": "too long"}
    with pytest.raises(CheckError, match=r"-x\.gguf: R13: name: offset 99: too long; get a sound copy") as error:
        check_file(reader(f"echo '{json.dumps(report)}'; echo line >&2; exit 1"), file)
    assert (error.value.rule, error.value.field, error.value.offset) == ("R13", "name", 99)


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("", "exit status 0"),
        ("echo '[]'", "exit status 0"),
        ("echo '{}'", "exit status 0"),
        ("""echo '{"ok": true}'; exit 1""", "exit status 1"),
        ("""echo '{"ok": false}'""", "exit status 0"),
        ("echo broken; exit 2", "exit status 2"),
        ("kill -SEGV $$", "signal SIGSEGV"),
    ],
)
def test_reader_that_fails_accepts_nothing(reader: Reader, file: Path, script: str, ending: str) -> None:
    with pytest.raises(ToolError, match=f"vector_boot check ended with {ending} and no report"):
        check_file(reader(script), file)


def test_no_file_and_no_reader(reader: Reader, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone cannot be read"):
        check_file(reader("exit 0"), tmp_path / "gone")
    with pytest.raises(ToolError, match=r"no-reader cannot be run.*run `vboot build`"):
        check_file(tmp_path / "no-reader", file)
