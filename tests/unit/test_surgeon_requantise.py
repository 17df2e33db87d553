"""Storing the tensors of a file in other types, judged by the gguf package and by a machine."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from evolution.surgeon import GGUFSurgeon
from image.compose import compose
from tests.support.gguf_models import Stored, extents, machine_digest, matrix, normal, read, write_model
from vboot.errors import InputError
from vboot.weights.arithmetic import EditError
from vboot.weights.storage_types import encode

QUERY = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, with blocks of Q8_0, vectors of F32 and the machine's tensors."""
    return compose("tiny", tmp_path_factory.mktemp("model") / "tiny.gguf", type="Q8_0").path


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "Q8_0"])
def test_requantised_values_are_those_of_the_gguf_package(tmp_path: Path, source: str, kind: str) -> None:
    tensors = {"v": normal(64), "m": normal(4, 64, kind=source), "n": normal(2, 32, kind=source)}
    surgeon = GGUFSurgeon(write_model(tmp_path / "in", tensors))
    if source == kind:
        with pytest.raises(EditError, match="changes nothing"):
            surgeon.requantise({"*": kind})
        return
    report = surgeon.requantise({"*": kind}, output=tmp_path / "out")
    assert [(each.name, each.type_before, each.type) for each in report.tensors] == [
        ("m", source, kind),
        ("n", source, kind),
    ]
    before, after = read(tmp_path / "in"), gguf.GGUFReader(tmp_path / "out")
    for tensor in after.tensors:
        expected = encode("F32" if tensor.name == "v" else kind, before[tensor.name].reshape(-1))
        assert tensor.data.tobytes() == expected.tobytes()
        assert quants.dequantize(tensor.data, tensor.tensor_type).shape == before[tensor.name].shape
    assert report.bytes == (tmp_path / "out").stat().st_size


def test_requantising_keeps_the_metadata_and_runs(model: Path, tmp_path: Path) -> None:
    report = GGUFSurgeon(model).requantise(
        {"*": "Q8_0", "*attn*": "F16", "token_embd*": "F32"}, output=tmp_path / "out"
    )
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out").tensors}
    assert (types[QUERY], types["token_embd.weight"], types["blk.0.attn_q.bias"]) == ("F16", "F32", "F32")
    assert machine_digest(tmp_path / "out") == report.model
    old, new = model.read_bytes(), (tmp_path / "out").read_bytes()
    fields = gguf.GGUFReader(model).fields.values()
    metadata_end = max(field.offset + sum(part.nbytes for part in field.parts) for field in fields)
    assert old[:metadata_end] == new[:metadata_end]
    header_end = min(place.start for place in extents(model).values())
    different = [at for at in range(header_end) if old[at] != new[at]]
    assert 0 < len(different) < 12 * len(types)


@pytest.mark.parametrize(
    ("types", "code"),
    [
        ({"a": "Q8_0"}, 1004),
        ({"i": "F16"}, 1019),
        ({"q": "F16"}, 1019),
        ({"gone": "F16"}, 1001),
        ({"a*": "F16"}, 1001),
        ({"big": "F16"}, 1005),
        ({"big": "Q8_0"}, 1005),
        ({"a": "F32"}, 1008),
        ({}, 1008),
    ],
)
def test_requantising_what_cannot_be(tmp_path: Path, types: dict[str, str], code: int) -> None:
    tensors: dict[str, Stored] = {
        "a": normal(3),
        "big": matrix(np.full((2, 32), 1e30)),
        "i": ("I8", (32, 1), bytes(32)),
        "q": ("Q4_0", (32, 1), bytes(18)),
    }
    surgeon = GGUFSurgeon(write_model(tmp_path / "in", tensors))
    with pytest.raises(EditError) as caught:
        surgeon.requantise(types, output=tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_requantising_to_a_type_that_is_not_made_here(model: Path) -> None:
    with pytest.raises(InputError, match=r"'\*' cannot be stored as 'Q4_K'; give one of BF16, F16, F32, Q8_0"):
        GGUFSurgeon(model).requantise({"*": "Q4_K"})
