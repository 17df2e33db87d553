"""Pooling and the limit of tokens, given when a model is composed, and what build and inspect say of the outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.executable import executable_path
from image.compose import compose
from image.gguf_writer import Model, chunks, plan, string, with_entry
from image.tiny import tiny
from tests.support.vboot import Vboot
from vboot.check import check_file
from vboot.errors import InputError
from vboot.gguf import read_layout, scalar


def write(path: Path, model: Model) -> str:
    path.write_bytes(b"".join(bytes(chunk) for chunk in chunks(plan(model))))
    return str(path)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The tiny bert without its pooling type."""
    model = tiny(stored_as="F16")
    entries = tuple(entry for entry in model.metadata if entry.key != "bert.pooling_type")
    return write(tmp_path / "plain.gguf", replace(model, metadata=entries))


def stated(path: Path, key: str) -> object:
    return scalar(read_layout(memoryview(path.read_bytes()), name="x").metadata, key)


def capabilities(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = check_file(executable_path(), path)["capabilities"]
    return found


def test_a_file_without_pooling_type_says_why_it_cannot_embed(plain: str, tmp_path: Path) -> None:
    compose(plain, tmp_path / "out.gguf")
    found = capabilities(tmp_path / "out.gguf")
    assert (found["serves"], found["embed"], found["max_tokens"], found["pooling"]) == (True, False, None, None)
    assert "bert.pooling_type is absent" in found["embed_refused"]


@pytest.mark.parametrize(("name", "number"), [("mean", 1), ("cls", 2), ("last", 3)])
def test_the_pooling_type_can_be_given(plain: str, tmp_path: Path, name: Any, number: int) -> None:
    output = tmp_path / "out.gguf"
    compose(plain, output, pooling=name)
    assert stated(output, "bert.pooling_type") == number
    found = capabilities(output)
    assert (found["embed"], found["embed_refused"], found["pooling"]) == (True, None, name)


def test_a_stated_pooling_type_is_confirmed_or_the_build_refuses(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    assert compose("tiny", output, pooling="mean").sha256 == compose("tiny", output).sha256
    with pytest.raises(InputError, match=r"model\.pooling = 'cls' is bert\.pooling_type 2, but tiny states 1"):
        compose("tiny", output, pooling="cls")


def test_the_limit_of_tokens_is_written_and_honoured(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    assert capabilities(compose("tiny", output).path)["max_tokens"] == 128
    for limit in (2, 100, 128):
        compose("tiny", output, max_tokens=limit)
        assert stated(output, "vector_boot.max_tokens") == limit
        assert capabilities(output)["max_tokens"] == limit
    compose(str(output), tmp_path / "again.gguf", max_tokens=64)
    assert capabilities(tmp_path / "again.gguf")["max_tokens"] == 64


@pytest.mark.parametrize("limit", [0, 1, 129, 2**32 - 1])
def test_a_limit_outside_the_context_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(
        InputError, match=rf"model\.max_tokens = {limit} is not from 2 to 128, the bert\.context_length"
    ):
        compose("tiny", tmp_path / "out.gguf", max_tokens=limit)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("settings", [{"pooling": "mean"}, {"max_tokens": 8}])
def test_another_architecture_takes_neither(tmp_path: Path, settings: Any) -> None:
    model = tiny(stored_as="F16")
    entries = with_entry(model.metadata, string("general.architecture", "llama"))
    other = write(tmp_path / "other.gguf", replace(model, metadata=entries))
    with pytest.raises(InputError, match="is only for models of architecture bert"):
        compose(other, tmp_path / "out.gguf", **settings)


def test_edits_are_counted_by_storage_type(tmp_path: Path) -> None:
    found = capabilities(compose("tiny", tmp_path / "out.gguf", type="Q8_0").path)
    # Matrices are Q8_0, vectors and two tables F32, the eight slots I8.
    assert found["edits"] == {
        "dense": {"F32": 24, "Q8_0": 13, "I8": 8},
        "sparse": {"F32": 24, "Q8_0": 13},
        "low_rank": {"F32": 2, "Q8_0": 13},
        "seeded normal": {"F32": 24, "Q8_0": 13},
        "seeded step": {"Q8_0": 13},
        "seeded scale": {"Q8_0": 13},
        "program": {"I8": 8},
    }
    assert found["generate"] is False


def test_build_and_inspect_say_it_before_the_machine_boots(vboot: Vboot, plain: str) -> None:
    assert vboot("build", "--model", plain) == 0
    assert "makes embeddings       no: bert.pooling_type is absent" in vboot.out
    answer = vboot.json("build", "--model", plain, "--pooling", "cls", "--max-tokens", "99")
    assert answer["capabilities"]["embed"] is True
    assert vboot("inspect", "build/vectorland.gguf") == 0
    lines = vboot.out.splitlines()
    assert "makes embeddings       yes, cls pooling, texts of at most 99 tokens" in lines
    assert "generates text         no: this runtime has no text generation" in lines
    assert "  dense edits          13 F16, 24 F32 and 8 I8" in lines
    assert "  of no tensor         seeded scale, seeded step" in lines
    assert vboot.json("inspect", "build/vector_boot.rts")["capabilities"] == answer["capabilities"]


def test_a_bert_that_contradicts_itself_is_announced_as_an_emergency(vboot: Vboot, tmp_path: Path) -> None:
    model = tiny(stored_as="F16")
    tensors = tuple(tensor for tensor in model.tensors if tensor.name != "token_embd_norm.weight")
    write(tmp_path / "broken.gguf", replace(model, tensors=tensors))
    assert vboot("inspect", "broken.gguf") == 0
    assert (
        "serves      no: the machine would boot into an emergency, because tensor token_embd_norm.weight" in vboot.out
    )
