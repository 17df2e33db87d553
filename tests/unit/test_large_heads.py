"""Models with very large metadata: what `vector_boot check`, `compose` and `inspect` do, and in how much memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.executable import executable_path
from image.compose import compose
from image.gguf_writer import Model, Tensor, TensorType, i32_array, plan, string, with_entry
from image.tiny import tiny
from tests.support.vboot import Vboot
from vboot.check import CheckError, check_file
from vboot.gguf import Metadata, ValueType

MEMORY_LIMIT_KIB = 64_000_000 // 1024
DESCRIPTION = "general.description"


def write(path: Path, model: Model) -> Path:
    """Write the head of a model; its tensors are a hole, which reads as zeros."""
    planned = plan(model)
    path.write_bytes(planned.header)
    os.truncate(path, planned.size)
    return path


def vocabulary(count: int, *, width: int) -> Metadata:
    """A string array: the tokens 0 to `count` - 1 in decimal, `width` digits each."""
    entries = np.zeros(count, dtype=[("length", "<u8"), ("text", "u1", width)])
    entries["length"] = width
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    entries["text"] = ord("0") + np.arange(count)[:, np.newaxis] // powers % 10
    head = struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, count)
    return Metadata("tokenizer.ggml.tokens", head + entries.tobytes())


def with_vocabulary(count: int, *, types: int = 1) -> Model:
    """The tiny bert with another vocabulary, whose tokens all have the type `types`."""
    model = tiny(stored_as="F16")
    metadata = with_entry(model.metadata, vocabulary(count, width=8))
    metadata = with_entry(metadata, i32_array("tokenizer.ggml.token_type", [types] * count))
    embeddings = np.broadcast_to(np.zeros((), np.float16), (count, 64))
    tensors = tuple(
        Tensor(tensor.name, (64, count), TensorType.F16, embeddings) if tensor.name == "token_embd.weight" else tensor
        for tensor in model.tensors
    )
    return Model(metadata, tensors)


def with_description(size: int) -> Model:
    model = tiny(stored_as="F16")
    return replace(model, metadata=with_entry(model.metadata, string(DESCRIPTION, "x" * size)))


def accept(path: Path) -> None:
    check_file(executable_path(), path)


def check_in_little_memory(path: Path) -> dict[str, Any]:
    """The report of `vector_boot check --json`, run in an address space of 64 MB."""
    limited = f'ulimit -v {MEMORY_LIMIT_KIB}; exec "$0" "$@"'
    command = ["sh", "-c", limited, str(executable_path()), "check", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_huge_vocabulary_is_judged_in_little_memory(tmp_path: Path) -> None:
    model = write(tmp_path / "model.gguf", with_vocabulary(2_400_000))
    report = check_in_little_memory(model)
    assert report["gguf"]["data_offset"] > 45 << 20
    assert report["capabilities"]["embed"] is True


def test_capabilities_still_depend_on_the_token_types(tmp_path: Path) -> None:
    report = check_file(executable_path(), write(tmp_path / "user.gguf", with_vocabulary(1000, types=4)))
    assert (report["capabilities"]["serves"], report["capabilities"]["embed"]) == (True, False)
    assert "token_type of token 0 is 4 (user-defined)" in report["capabilities"]["embed_refused"]
    report = check_file(executable_path(), write(tmp_path / "wrong.gguf", with_vocabulary(1000, types=9)))
    assert report["capabilities"]["serves"] is False


def test_a_string_of_40_mib_is_kept(tmp_path: Path, vboot: Vboot) -> None:
    source = write(tmp_path / "source.gguf", with_description(40 << 20))
    compose(str(source), tmp_path / "composed.gguf", check=accept)
    report = check_in_little_memory(tmp_path / "composed.gguf")
    assert report["capabilities"]["embed"] is True
    assert vboot("inspect", str(tmp_path / "composed.gguf")) == 0
    assert len(vboot.out) < 100_000


def test_a_string_beyond_the_limit_of_the_head_is_refused_in_one_sentence(tmp_path: Path, vboot: Vboot) -> None:
    source = write(tmp_path / "source.gguf", with_description(60 << 20))
    with pytest.raises(CheckError) as refused:
        check_file(executable_path(), source)
    assert refused.value.rule == "R3"
    assert vboot("compose", "--model", str(source), "-o", "composed.gguf") == 1
    assert "R3: " in vboot.last_error()
    assert not Path("composed.gguf").exists()
