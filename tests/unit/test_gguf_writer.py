"""Our GGUF writer and layout reader, judged by the gguf package and by each other."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image import gguf_writer as w
from image.gguf_writer import FileRange, Model, Tensor, TensorType
from tests.support.rts_vectors import GGUF
from vboot.errors import InputError
from vboot.gguf import Layout, Metadata, read_layout, scalar

keys = st.from_regex(r"[a-z0-9_]{1,12}(\.[a-z0-9_-]{1,12}){0,3}", fullmatch=True).filter(
    lambda key: key != "general.alignment"
)
entries = st.one_of(
    st.builds(w.u32, keys, st.integers(0, 2**32 - 1)),
    st.builds(w.f32, keys, st.floats(width=32, allow_nan=False)),
    st.builds(w.boolean, keys, st.booleans()),
    st.builds(w.string, keys, st.text(min_size=1, max_size=20)),
    st.builds(w.string_array, keys, st.lists(st.text(max_size=8), min_size=1, max_size=6)),
    st.builds(w.i32_array, keys, st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=6)),
)
dims = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape: tuple[int, ...] = draw(dims)
    name = draw(st.from_regex(r"[a-z0-9_.]{1,63}", fullmatch=True))
    kind = draw(st.sampled_from([TensorType.F32, TensorType.I8, TensorType.Q8_0]))
    if kind == TensorType.Q8_0:
        shape = (shape[0] * 32, *shape[1:])
    size = {TensorType.F32: 4, TensorType.I8: 1, TensorType.Q8_0: 34 / 32}[kind] * int(np.prod(shape))
    data = draw(st.binary(min_size=int(size), max_size=int(size)))
    return Tensor(name, shape, kind, data)


models = st.builds(
    Model,
    st.lists(entries, max_size=8, unique_by=lambda entry: entry.key).map(tuple),
    st.lists(tensors(), max_size=6, unique_by=lambda tensor: tensor.name).map(tuple),
)


def file_of(model: Model) -> bytes:
    planned = w.plan(model)
    data = b"".join(bytes(chunk) for chunk in w.chunks(planned))
    assert len(data) == planned.size
    return data


@settings(derandomize=True, deadline=None, max_examples=60)
@given(model=models)
def test_files_read_back_with_the_gguf_package(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    data = file_of(model)
    path.write_bytes(data)
    reader = gguf.GGUFReader(path)
    assert reader.alignment == 4096
    assert len(reader.fields) == len(model.metadata) + 3 + 1
    for entry in model.metadata:
        field = reader.fields[entry.key]
        start = field.offset + 8 + len(entry.key)
        assert data[start : start + len(entry.value)] == entry.value
    assert [(t.name, t.tensor_type, tuple(t.shape.tolist())) for t in reader.tensors] == [
        (t.name, t.type, t.dims) for t in model.tensors
    ]
    for read, written in zip(reader.tensors, model.tensors, strict=True):
        assert read.data.tobytes() == written.source
        assert read.data_offset % 4096 == 0
    assert len(data) % 4096 == 0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(model=models)
def test_layout_reader_finds_what_was_written(model: Model) -> None:
    data = file_of(model)
    layout = read_layout(memoryview(data), name="model")
    assert layout.metadata == (*model.metadata, w.u32("general.alignment", 4096))
    assert [(t.name, t.dims, t.type) for t in layout.tensors] == [(t.name, t.dims, t.type) for t in model.tensors]
    for read, written in zip(layout.tensors, model.tensors, strict=True):
        assert data[read.offset : read.offset + read.size] == written.source


SAMPLE = file_of(
    Model(
        (w.string("general.name", "x"), w.string_array("a.b", ["one", "two"]), w.i32_array("a.c", [1, 2, 3])),
        (Tensor("t", (32, 2), TensorType.Q8_0, bytes(68)), Tensor("u", (3,), TensorType.F32, bytes(12))),
    )
)[:4200]


@settings(derandomize=True, deadline=None, max_examples=500)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3))
def test_layout_reader_ends_on_damaged_files(edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(SAMPLE)
    for offset, new in edits:
        data[offset : offset + len(new)] = new
    try:
        layout = read_layout(memoryview(data), name="damaged")
    except InputError:
        return
    assert all(t.offset + t.size <= len(data) for t in layout.tensors)


@settings(derandomize=True, deadline=None)
@given(data=st.binary(max_size=200), counts=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)))
def test_layout_reader_ends_on_any_bytes(data: bytes, counts: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        read_layout(memoryview(data), name="x")
    # Absurd counts end with the data, not with the memory.
    try:
        read_layout(memoryview(struct.pack("<4sIQQ", b"GGUF", 3, *counts) + data), name="x")
    except InputError:
        pass
    else:
        assert sum(counts) <= len(data)


def test_every_cut_is_refused() -> None:
    assert read_layout(memoryview(GGUF), name="x").tensors[0].offset == 128
    for length in range(len(GGUF)):
        with pytest.raises(InputError, match=r"^some\.gguf is not a usable GGUF file: "):
            read_layout(memoryview(GGUF)[:length], name="some.gguf")
    last = w.i32_array("last", [1, 2, 3])
    alone = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 4) + b"last" + last.value
    assert read_layout(memoryview(alone), name="x").metadata == (last,)
    for length in range(len(alone)):
        with pytest.raises(InputError):
            read_layout(memoryview(alone)[:length], name="x")


@pytest.mark.parametrize(
    ("kind", "elements", "size"), [(9, 32, 36), (42, 64, 18), (8, 32, 34), (39, 32, 17), (26, 1, 4), (30, 1, 2)]
)
def test_tensor_sizes_are_those_of_ggml(kind: int, elements: int, size: int) -> None:
    """Sizes by ggml-common.h, among them two that the gguf package has wrong or lacks."""
    data = file_of(Model((), (Tensor("t", (elements * 3, 2), kind, bytes(size * 6)),)))
    assert read_layout(memoryview(data), name="x").tensors[0].size == size * 6


@pytest.mark.parametrize(("kind", "shape"), [(4, (32,)), (43, (32,)), (8, (33,)), (8, (16, 2))])
def test_unknown_types_and_broken_rows_are_refused(kind: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"unknown tensor type|whole blocks"):
        w.plan(Model((), (Tensor("t", shape, kind, bytes(64)),)))


def test_a_source_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        w.plan(Model((), (Tensor("t", (4,), TensorType.F32, bytes(15)),)))


def test_sources_of_all_kinds_give_the_same_file(tmp_path: Path) -> None:
    array = np.arange(700_000, dtype=np.float32).reshape(700, 1000)
    path = tmp_path / "raw"
    path.write_bytes(b"skipped" + array.tobytes())
    with io.FileIO(path) as file:
        sources: list[Any] = [array, array.tobytes(), FileRange(file, 7, array.nbytes), np.asfortranarray(array)]
        files = {file_of(Model((), (Tensor("t", (1000, 700), TensorType.F32, source),))) for source in sources}
    assert len(files) == 1


def test_a_source_file_that_shrank_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(100))
    with io.FileIO(tmp_path / "raw") as file:
        model = Model((), (Tensor("t", (101,), TensorType.I8, FileRange(file, 0, 101)),))
        with pytest.raises(InputError, match="too early"):
            file_of(model)


def test_alignment_keeps_its_place_and_scalars_are_read() -> None:
    given_entries = (w.u32("general.alignment", 32), w.f32("x.f", 0.5), w.boolean("x.b", True), w.string("x.s", "é"))
    layout: Layout = read_layout(memoryview(file_of(Model(given_entries, ()))), name="x")
    assert layout.metadata[0] == w.u32("general.alignment", 4096)
    values = {key: scalar(layout.metadata, key) for key in ("x.f", "x.b", "x.s", "missing")}
    assert values == {"x.f": 0.5, "x.b": True, "x.s": "é", "missing": None}
    assert scalar([Metadata("a", w.i32_array("a", [1]).value)], "a") is None
