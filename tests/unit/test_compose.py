"""Composing vectorland.gguf from a user's file and from the built-in tiny model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from image.compose import compose
from image.machine_tensors import machine_tensors
from vboot.errors import InputError
from vboot.gguf import read_layout, scalar

ROOT = Path(__file__).parents[2]
MACHINE = {tensor.name: tensor for tensor in machine_tensors()}


def write_model(path: Path, *, extra: dict[str, NDArray[Any]] | None = None, layout: int | None = None) -> Path:
    """A model of no known architecture, with entries and tensors of many kinds, by the gguf package's own writer."""
    writer = gguf.GGUFWriter(path, "no-such-arch")
    writer.add_name("a user's model")
    writer.add_file_type(7)
    writer.add_uint8("x.u8", 200)
    writer.add_int16("x.i16", -3)
    writer.add_uint64("x.u64", 2**63 + 5)
    writer.add_float64("x.f64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_array("x.floats", [0.5, -0.25])
    writer.add_array("x.bools", [True, False])
    writer.add_token_list([f"token{index}é" for index in range(500)])
    if layout is not None:
        writer.add_uint32("vector_boot.layout", layout)
    rng = np.random.default_rng(1)
    # An odd number of bytes, several types, and one tensor larger than a chunk.
    writer.add_tensor("odd", rng.integers(-100, 100, 37, dtype=np.int8))
    writer.add_tensor("f16", rng.standard_normal((3, 64)).astype(np.float16))
    quantized = rng.integers(0, 255, (5, 36), dtype=np.uint8)
    writer.add_tensor("q4", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("large", rng.standard_normal((700, 1000), dtype=np.float32))
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf")


def test_entries_and_tensors_are_carried_over_to_the_byte(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "vectorland.gguf"
    result = compose(str(model), output)
    data = output.read_bytes()
    assert (result.bytes, result.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (result.path, result.architecture, result.name) == (output, "no-such-arch", "a user's model")
    old = read_layout(memoryview(model.read_bytes()), name="old")
    new = read_layout(memoryview(data), name="new")
    assert new.metadata[: len(old.metadata)] == old.metadata
    added = [entry.key for entry in new.metadata[len(old.metadata) :]]
    assert added == ["vector_boot.layout", "general.alignment"]
    assert scalar(new.metadata, "vector_boot.layout") == 1

    before, after = gguf.GGUFReader(model), gguf.GGUFReader(output)
    assert after.alignment == 4096
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors] + list(MACHINE)
    assert result.tensors == len(after.tensors)
    for was, now in zip(before.tensors, after.tensors, strict=False):
        assert (was.tensor_type, was.shape.tolist()) == (now.tensor_type, now.shape.tolist())
        assert was.data.tobytes() == now.data.tobytes()
    for tensor in after.tensors:
        assert tensor.data_offset % 4096 == 0
        if tensor.name in MACHINE:
            assert tensor.data.tobytes() == MACHINE[tensor.name].source


def test_composing_again_changes_nothing(tmp_path: Path, model: Path) -> None:
    first = compose(str(model), tmp_path / "1.gguf")
    assert compose(str(tmp_path / "1.gguf"), tmp_path / "2.gguf").sha256 == first.sha256


def test_alignment_of_the_model_is_replaced_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "x")
    writer.add_custom_alignment(64)
    writer.add_name("after the alignment")
    writer.add_tensor("t", np.arange(5, dtype=np.float32))
    writer.add_tensor("u", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    compose(str(path), tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    ours = ("vector_boot.layout", "vector_boot.source_alignment")
    assert keys == ["general.architecture", "general.alignment", "general.name", *ours]
    assert reader.tensors[1].data.tolist() == list(range(7))


def test_machine_names_are_refused_unless_the_file_is_ours(tmp_path: Path) -> None:
    page = np.zeros(1024, dtype=np.int32)
    for name in ("hw.mmio", "kernel.7", "evolved.0", "cortex_journal"):
        path = write_model(tmp_path / "m.gguf", extra={name: page})
        with pytest.raises(InputError, match=f"already has a tensor named {name}"):
            compose(str(path), tmp_path / "out.gguf")
    page[:] = 7
    path = write_model(tmp_path / "m.gguf", extra={"hw.mmio": page}, layout=1)
    compose(str(path), tmp_path / "out.gguf")
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert (tensors["hw.mmio"] == 7).all()
    assert MACHINE.keys() <= tensors.keys()


@pytest.mark.parametrize("wrong", [np.zeros(1023, np.int32), np.zeros(1024, np.float32), np.zeros((2, 512), np.int32)])
def test_machine_tensors_of_another_shape_are_refused(tmp_path: Path, wrong: NDArray[Any]) -> None:
    path = write_model(tmp_path / "m.gguf", extra={"hw.mmio": wrong}, layout=1)
    with pytest.raises(InputError, match=r"has a tensor hw\.mmio of type"):
        compose(str(path), tmp_path / "out.gguf")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", layout=2)
    with pytest.raises(InputError, match="layout = 2"):
        compose(str(path), tmp_path / "out.gguf")


def test_output_that_is_the_model_is_refused(tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "hard").hardlink_to(model)
    for output in (model, tmp_path / "link", tmp_path / "hard"):
        with pytest.raises(InputError, match="both input and output"):
            compose(str(model), output)
    assert model.read_bytes() == before


def test_type_of_a_file_may_only_be_confirmed(tmp_path: Path, model: Path) -> None:
    compose(str(model), tmp_path / "out.gguf", type="Q8_0")
    with pytest.raises(InputError, match="copied unchanged"):
        compose(str(model), tmp_path / "out2.gguf", type="F16")


def test_the_check_runs_before_the_file_is_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGML, and no GGUF at all")

    def refuse(path: Path) -> None:
        raise InputError(f"R1 in {path.name}")

    with pytest.raises(InputError, match=r"R1 in broken\.gguf"):
        compose(str(broken), tmp_path / "out.gguf", check=refuse)
    with pytest.raises(InputError, match="does not begin with GGUF"):
        compose(str(broken), tmp_path / "out.gguf", check=lambda _path: None)


def test_unusable_models_leave_nothing_behind(tmp_path: Path, model: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-5000])
    (tmp_path / "empty.gguf").touch()
    before = sorted(tmp_path.iterdir())
    for path in (cut, tmp_path / "empty.gguf", tmp_path, tmp_path / "missing.gguf", Path("/dev/zero")):
        with pytest.raises(InputError, match=str(path)):
            compose(str(path), tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == before


def test_progress_is_monotonic_and_complete(tmp_path: Path, model: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    result = compose(str(model), tmp_path / "out.gguf", progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == ("write", result.bytes, result.bytes)


def test_the_same_bytes_in_any_surroundings(tmp_path: Path) -> None:
    here = compose("tiny", tmp_path / "tiny.gguf").sha256
    script = (
        "import os, sys\nfrom pathlib import Path\nos.umask(0o077)\nfrom image.compose import compose\n"
        "print(compose('tiny', Path('other name.gguf')).sha256)\n"
    )
    other = tmp_path / "another folder"
    other.mkdir()
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "77",
        "SOURCE_DATE_EPOCH": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=other, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == here
    assert [path.name for path in other.iterdir()] == ["other name.gguf"]
