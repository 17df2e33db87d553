"""Plain models: composed and exported again they are the same to the byte, and llama.cpp loads them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.surgeon import GGUFSurgeon
from image.compose import compose
from tests.support import llama_cpp
from tests.support.gguf_models import Stored, extents, normal, write_model
from tests.support.vboot import Vboot
from vboot.errors import InputError
from vboot.weights.edits import Program, Seeded

_MACHINE = {"hw.mmio", "cortex_journal", *(f"{kind}.{n}" for kind in ("kernel", "evolved") for n in range(8))}


def exported(composed: Path) -> Path:
    output = composed.with_suffix(".plain")
    GGUFSurgeon(composed).export(output)
    return output


def round_trip(plain: Path) -> Path:
    return exported(compose(str(plain), plain.with_suffix(".composed")).path)


def all_kinds(path: Path, alignment: int | None, tensors: Mapping[str, Stored]) -> Path:
    """A model by the gguf package, with metadata of every type; the alignment stands in the middle."""
    writer = gguf.GGUFWriter(path, "unknown")
    writer.add_uint8("a.u8", 255)
    writer.add_int8("a.i8", -128)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -32768)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -(2**31))
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.empty", "")
    writer.add_string("a.text", 'Grüße "\n" 家')
    for name, values in {"ints": [1, -2], "floats": [0.5], "bools": [True, False], "words": ["", "one"]}.items():
        writer.add_array(f"an.array.{name}", values)
    for name, (kind, shape, data) in tensors.items():
        sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        rows = np.frombuffer(data, np.uint8).reshape(*shape[:0:-1], shape[0] // sizes[0] * sizes[1])
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_TENSORS: Mapping[str, Stored] = {
    "odd": ("I8", (3,), b"\1\2\3"),
    "f32": normal(5, 7),
    "f16": normal(3, 32, kind="F16"),
    "q8_0": normal(2, 64, kind="Q8_0"),
    "q4_0": ("Q4_0", (32, 3), bytes(range(54))),
}


@pytest.mark.parametrize("alignment", [None, 8, 32, 64, 4096, 8192])
def test_a_foreign_model_comes_back_to_the_byte(tmp_path: Path, alignment: int | None) -> None:
    plain = all_kinds(tmp_path / "model.gguf", alignment, _TENSORS)
    assert round_trip(plain).read_bytes() == plain.read_bytes()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    alignment=st.none() | st.sampled_from([8, 16, 32, 128, 1 << 14]),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
)
def test_any_sizes_and_alignment_come_back_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, alignment: int | None, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    tensors: dict[str, Stored] = {f"t{n}": ("I8", (size,), bytes([n]) * size) for n, size in enumerate(sizes)}
    plain = all_kinds(folder / "model.gguf", alignment, tensors)
    assert round_trip(plain).read_bytes() == plain.read_bytes()


def test_of_a_file_of_version_2_every_key_and_tensor_comes_back(tmp_path: Path) -> None:
    plain = all_kinds(tmp_path / "model.gguf", 64, _TENSORS)
    data = plain.read_bytes()
    plain.write_bytes(data[:4] + struct.pack("<I", 2) + data[8:])
    assert round_trip(plain).read_bytes() == data, "all but the version"


def test_a_composition_of_an_export_is_the_same_file(tmp_path: Path) -> None:
    composed = compose("tiny", tmp_path / "tiny").path
    plain = exported(composed)
    again = compose(str(plain), tmp_path / "again").path
    assert again.read_bytes() == composed.read_bytes()
    assert exported(again).read_bytes() == plain.read_bytes()


def test_a_composed_file_that_is_composed_again_keeps_its_source_alignment(tmp_path: Path) -> None:
    plain = all_kinds(tmp_path / "model.gguf", 64, _TENSORS)
    composed = compose(str(plain), tmp_path / "once").path
    again = compose(str(composed), tmp_path / "twice").path
    assert again.read_bytes() == composed.read_bytes()
    assert exported(again).read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("stored_as", ["F32", "F16", "Q8_0"])
def test_llama_cpp_loads_an_export_and_not_a_composed_file(tmp_path: Path, stored_as: str) -> None:
    composed = compose("tiny", tmp_path / "tiny.gguf", type=stored_as).path  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="wrong number of tensors; expected 55, got 37"):
        llama_cpp.load(composed)
    plain = exported(composed)
    tensors = gguf.GGUFReader(plain).tensors
    assert len(tensors) == 37
    parameters, width = llama_cpp.load(plain)
    assert (parameters, width) == (sum(int(tensor.n_elements) for tensor in tensors), 64)


def test_changed_weights_are_exported(tmp_path: Path) -> None:
    composed = compose("tiny", tmp_path / "tiny.gguf").path
    edits = [Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.5, 0.01)]
    report = GGUFSurgeon(composed).apply(edits, output=tmp_path / "evolved.gguf")
    plain = exported(tmp_path / "evolved.gguf")
    assert GGUFSurgeon(plain).digest() == report.model
    old, new = (tmp_path / "evolved.gguf").read_bytes(), plain.read_bytes()
    ours, theirs = extents(tmp_path / "evolved.gguf"), extents(plain)
    assert ours.keys() - theirs.keys() == _MACHINE
    assert all(old[ours[name]] == new[place] for name, place in theirs.items())


# The command


def test_the_command_says_what_it_left_out(vboot: Vboot, tmp_path: Path) -> None:
    composed = compose("tiny", tmp_path / "tiny.gguf").path
    assert vboot("surgeon", "export", composed, "-o", "plain.gguf") == 0
    head, left_out, model = vboot.out.splitlines()
    assert head.startswith("plain.gguf: plain model, ")
    assert head.endswith(", 37 tensors")
    assert left_out == "without 18 tensors and 2 keys of the machine"
    assert model == f"model {GGUFSurgeon(composed).digest()}"
    answer = vboot.json("surgeon", "export", composed, "-o", "plain.gguf")
    assert set(answer["removed_tensors"]) == _MACHINE
    assert answer["removed_keys"] == ["vector_boot.layout", "general.alignment"]
    assert (answer["output"], answer["lost_kernels"], answer["bytes"]) == (
        "plain.gguf",
        [],
        Path("plain.gguf").stat().st_size,
    )
    assert vboot("surgeon", "diff", composed, "plain.gguf") == 0
    assert vboot.out.splitlines()[:3] == [
        "18 tensors differ, 37 are the same",
        f"only {composed} holds 18 tensors of the machine",
        "metadata: general.alignment, vector_boot.layout",
    ]


def test_evolved_kernels_are_lost_with_a_warning(vboot: Vboot, tmp_path: Path) -> None:
    composed = compose("tiny", tmp_path / "tiny.gguf").path
    before = GGUFSurgeon(composed).digest()
    GGUFSurgeon(composed).apply([Program("evolved.3", bytes([1, 2, 3]))], in_place=True)
    assert vboot("surgeon", "export", composed, "-o", "plain.gguf") == 0
    assert vboot.out.splitlines()[-1] == "warning: the evolved kernels in evolved.3 are not in the plain model"
    assert GGUFSurgeon(Path("plain.gguf")).digest() == before


def test_a_plain_model_is_copied(vboot: Vboot, tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain.gguf", {"a": ("I8", (3,), b"abc")})
    plain.write_bytes(plain.read_bytes().removesuffix(bytes(29)))  # some writers do not pad the last tensor
    assert vboot("surgeon", "export", plain, "-o", "copy.gguf") == 0
    assert f"{plain} has no tensors of a machine: it was copied unchanged" in vboot.out.splitlines()
    assert Path("copy.gguf").read_bytes() == plain.read_bytes()


def test_what_is_refused(tmp_path: Path) -> None:
    composed = compose("tiny", tmp_path / "tiny.gguf").path
    data = composed.read_bytes()
    with pytest.raises(InputError, match="is both input and output"):
        GGUFSurgeon(composed).export(composed)
    assert composed.read_bytes() == data
    with pytest.raises(InputError, match=r"cannot write .*gone/out"):
        GGUFSurgeon(composed).export(tmp_path / "gone" / "out")
