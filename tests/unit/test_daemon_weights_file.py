"""The run's weights written as a file: whole and with the expected digest, or an older file of that name stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolution.daemon.reconcile import Reference
from evolution.daemon.weights_file import write_plain_model, write_weights
from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.runtime_check import runtime_check
from tests.support.evolution_run import small_model
from vboot.errors import InputError
from vboot.protocol.messages import Digest
from vboot.weights.edits import Dense


def weights_of(path: Path) -> Reference:
    """The weights in a file as a reference, without a machine."""
    file = GGUFFile(path, runtime_check)

    def digests(names: Sequence[str]) -> Digest:
        return Digest(0, file.model_sha256(), {name: file.sha256(name) for name in names})

    terrain = tuple(GGUFSurgeon(path).tensors().values())
    return Reference(file.model_sha256(), terrain, digests, lambda name: bytes(file.tensors[name].data))


def changed(path: Path, contents: Mapping[str, bytes]) -> Reference:
    GGUFSurgeon(small_model()).apply([Dense(name, 0, data) for name, data in contents.items()], output=path)
    return weights_of(path)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "output.gguf"
    path.write_bytes(b"an older file")
    return path


@pytest.mark.parametrize("write", [write_weights, write_plain_model])
def test_a_file_with_the_weights_takes_the_place_of_an_older_one(
    write: Callable[..., Any], tmp_path: Path, old: Path
) -> None:
    weights = changed(tmp_path / "evolved.gguf", {"token_embd_norm.bias": bytes(192)})
    write(small_model(), weights, old)
    assert GGUFSurgeon(old).digest() == weights.model
    assert bytes(GGUFFile(old, runtime_check).tensors["token_embd_norm.bias"].data) == bytes(192)


@pytest.mark.parametrize("write", [write_weights, write_plain_model])
def test_bytes_that_are_not_those_of_the_digest_leave_the_older_file(
    write: Callable[..., Any], tmp_path: Path, old: Path
) -> None:
    weights = changed(tmp_path / "evolved.gguf", {"token_embd_norm.bias": bytes(192)})
    other = replace(weights, read=lambda name: b"\0\0\x80\x3f" * (len(weights.read(name)) // 4))
    with pytest.raises(InputError, match="was not written: its model would have the digest"):
        write(small_model(), other, old)
    assert old.read_bytes() == b"an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evolved.gguf", "output.gguf"]


def test_a_kernel_for_which_the_model_has_no_slot_leaves_the_older_file(tmp_path: Path, old: Path) -> None:
    plain = tmp_path / "plain.gguf"
    GGUFSurgeon(small_model()).export(plain)
    weights = changed(tmp_path / "evolved.gguf", {"evolved.3": b"\1" * 4096, "token_embd_norm.bias": bytes(192)})
    with pytest.raises(InputError, match=r"plain\.gguf has no tensor 'evolved\.3', which the weights have") as caught:
        write_weights(plain, weights, old)
    assert caught.value.remedy == "use a model that `vboot compose` made"
    assert old.read_bytes() == b"an older file"
    assert write_plain_model(plain, weights, old)[1] == ("evolved.3",)
