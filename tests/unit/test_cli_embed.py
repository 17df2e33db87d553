"""`vboot embed` on the real executable."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cli.machines import split_machine
from tests.support.local_machine import local_machine
from tests.support.vboot import Vboot, write_gguf
from vboot.client.machine import connect

TEXTS = ("the machine", "a machine", "zebra")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with local_machine(tmp_path_factory.mktemp("machine")) as local:
        yield local.socket


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    # As the C locale has it: what is not UTF-8 becomes surrogates.
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)


def test_texts_are_listed_with_similarities(vboot: Vboot, machine: Path) -> None:
    assert vboot("embed", machine, *TEXTS) == 0
    lines = vboot.out.splitlines()
    assert lines[0].split()[:5] == ["tokens", "first", "of", "64", "numbers,"]
    assert [line.split()[:2] for line in lines[1:4]] == [["1", "4"], ["2", "4"], ["3", lines[3].split()[1]]]
    assert lines[5] == "cosine similarity"
    assert [len(line.split()) for line in lines[6:]] == [3, 4, 4, 4]
    assert vboot("embed", machine, TEXTS[0]) == 0
    assert len(vboot.out.splitlines()) == 2


def test_json_holds_every_bit(vboot: Vboot, machine: Path) -> None:
    with connect(machine) as connected:
        expected = connected.embed(TEXTS)
        raw = connected.embed(TEXTS, normalize=False)
    embedded = vboot.json("embed", machine, *TEXTS)
    assert [embedded["generation"], embedded["dim"]] == [0, 64]
    assert [each["text"] for each in embedded["texts"]] == list(TEXTS)
    assert tuple(each["tokens"] for each in embedded["texts"]) == expected.tokens
    vectors = np.array([each["embedding"] for each in embedded["texts"]], np.float32)
    assert vectors.tobytes() == expected.vectors.tobytes()
    assert np.allclose(embedded["similarities"], expected.vectors @ expected.vectors.T, atol=1e-6)
    embedded = vboot.json("embed", machine, TEXTS[0], "--no-normalize", *TEXTS[1:])
    vectors = np.array([each["embedding"] for each in embedded["texts"]], np.float32)
    assert vectors.tobytes() == raw.vectors.tobytes()
    assert vboot("embed", machine, "one", "--nonsense", "two") == 2
    assert vboot.json("embed", machine, "one")["similarities"] is None
    assert vboot.json("embed", machine, *map(str, range(17)))["similarities"] is None


def test_lines_of_stdin_become_rows_of_a_file(
    vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    type_in(monkeypatch, "the machine\n\nZoë".encode())
    assert vboot("embed", machine, "--npy", "vectors.npy") == 0
    assert vboot.out == "vectors.npy: float32 [3, 64], generation 0\n"
    written = np.load(tmp_path / "vectors.npy")
    with connect(machine) as connected:
        assert written.tobytes() == connected.embed(["the machine", "", "Zoë"]).vectors.tobytes()
    embedded = vboot.json("embed", machine, "x", "--npy", tmp_path / "vectors.npy")
    assert embedded["npy"] == str(tmp_path / "vectors.npy")
    assert embedded["texts"][0].keys() == {"text", "tokens", "truncated"}
    assert vboot("embed", machine, "x", "--npy", "missing/vectors.npy") == 1
    assert "cannot write missing/vectors.npy" in vboot.last_error()


def test_lines_may_end_as_elsewhere(vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"a\r\nb\n")
    assert [each["text"] for each in vboot.json("embed", machine)["texts"]] == ["a", "b"]


def test_a_closed_stdin_has_no_text(vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert vboot("embed", machine) == 1
    assert "there is no text" in vboot.last_error()


def test_an_argument_that_is_not_utf8(vboot: Vboot, machine: Path) -> None:
    assert vboot("embed", machine, "good", "caf\udce9") == 1
    assert vboot.last_error() == "vboot: error: text 2 is not UTF-8; give texts in UTF-8"


def test_a_file_that_cannot_be_written_fails_before_the_work(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in ("missing/vectors.npy", "folder"):
        assert vboot("embed", "no machine runs", "--npy", path) == 1
        assert f"cannot write {path}" in vboot.last_error()


def test_a_text_like_a_path_is_no_machine(vboot: Vboot, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"")
    assert vboot("embed", "and/or") == 1
    assert "and/or is not there; give the folder that boot printed" in vboot.last_error()


def test_a_machine_is_no_text(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    """A run folder or socket behind a text was embedded as a text, by another machine."""
    (tmp_path / "run 1").mkdir()
    (tmp_path / "run 1" / "machine.json").touch()
    assert vboot("embed", "a text", "run 1") == 1
    assert vboot.last_error() == (
        "vboot: error: text 2 is the path of a machine: 'run 1'; name it with `--run 'run 1'`; "
        "with --run every word is a text"
    )
    assert vboot("embed", machine, "a text", machine) == 1
    assert f"name it with `--run {machine}`" in vboot.last_error()
    embedded = vboot.json("embed", "a text", "run 1", "--run", machine)
    assert [each["text"] for each in embedded["texts"]] == ["a text", "run 1"]
    assert vboot("embed", "a text", "--run", "gone") == 1
    assert "gone is not there" in vboot.last_error()


def test_npy_replaces_its_own_files_only(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    """Any file was overwritten."""
    for count in (1, 2):
        assert vboot("embed", machine, *TEXTS[:count], "--npy", "mine.npy") == 0
    assert len(np.load(tmp_path / "mine.npy")) == 2
    (tmp_path / "text.npy").write_text("precious")
    np.save(tmp_path / "ints.npy", np.arange(6).reshape(2, 3))
    for name in ("text.npy", "ints.npy"):
        before = (tmp_path / name).read_bytes()
        assert vboot("embed", machine, "x", "--npy", name) == 1
        assert vboot.last_error() == (
            f"vboot: error: {name} is there and holds no embeddings; name another file, or replace it with --force"
        )
        assert (tmp_path / name).read_bytes() == before
        assert vboot("embed", machine, "x", "--npy", name, "--force") == 0
        assert np.load(tmp_path / name).shape == (1, 64)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", "there is no text"), (b"good\ncaf\xe9\n", "line 2 of stdin is not UTF-8; give texts in UTF-8")],
)
def test_stdin_without_texts(
    vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, error: str
) -> None:
    type_in(monkeypatch, data)
    assert vboot("embed", machine) == 1
    assert error in vboot.last_error()


def test_a_model_without_a_network(vboot: Vboot, tmp_path: Path) -> None:
    with local_machine(tmp_path, model=write_gguf(tmp_path / "model.gguf")) as local:
        assert vboot("embed", local.socket, "a text") == 1
    assert "this model cannot be run: the model's architecture is unknown" in vboot.last_error()
    assert "code 1018" in vboot.last_error()


def test_a_text_that_no_request_holds(vboot: Vboot, machine: Path) -> None:
    short, long, also_unknown = vboot.json("embed", machine, "short", "x" * 70_000, "y" * 101)["texts"]
    assert short["embedding"] != long["embedding"] == also_unknown["embedding"]


def test_the_first_word_is_a_machine_if_it_names_one(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "machine.json").touch()
    assert split_machine(()) == (None, ())
    assert split_machine((str(machine), "a")) == (machine, ("a",))
    assert split_machine(("run", "a")) == (Path("run"), ("a",))
    assert split_machine(("plain", "a")) == (None, ("plain", "a"))
    assert split_machine(("a text and/or a path", "b")) == (None, ("a text and/or a path", "b"))
    assert vboot("embed", "build/run/mistyped", "a text") == 1
    assert "build/run/mistyped is not there" in vboot.last_error()
    assert vboot("embed", "a text") == 1
    assert "no machine runs" in vboot.last_error()


def test_truncated_texts_are_reported_in_one_line(vboot: Vboot, machine: Path) -> None:
    long = "word " * 3000
    embedded = vboot.json("embed", machine, "short", long, f"{long} end")
    assert [text["truncated"] for text in embedded["texts"]] == [False, True, True]
    limit = embedded["texts"][1]["tokens"]
    assert embedded["texts"][1]["embedding"] == embedded["texts"][2]["embedding"]
    warning = f"{limit} tokens, the model's limit: the tokens after it were ignored"
    assert vboot.err == f"vboot: warning: 2 of 3 texts had more than {warning}\n"
    assert vboot("embed", machine, long) == 0
    assert vboot.err == f"vboot: warning: the text had more than {warning}\n"
