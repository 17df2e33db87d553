"""GGUF files of any tensors, made and read by the gguf package, and what a machine says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

from vboot.client.bridge import RustNeuralBridge
from vboot.weights.storage_types import block_of, decode, encode

RANDOM = np.random.default_rng(7)

Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor: ggml type, shape (fastest first), bytes."""


def write_model(
    path: Path, tensors: Mapping[str, Stored], *, alignment: int = 32, architecture: str = "test", note: str = "a note"
) -> Path:
    """A file of these tensors, in their order, with some metadata before them."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    writer.add_string("test.note", note)
    writer.add_array("test.words", ["one", "two", "three"])
    for name, (kind, shape, data) in tensors.items():
        block = block_of(kind)
        rows = np.frombuffer(data, np.uint8).reshape(*shape[:0:-1], shape[0] // block.elements * block.bytes)
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def matrix(values: NDArray[np.floating[Any]], kind: str = "F32") -> Stored:
    """A tensor of these values, rows first."""
    return kind, values.shape[::-1], encode(kind, values.astype(np.float32).reshape(-1)).tobytes()


def normal(*shape: int, kind: str = "F32") -> Stored:
    """A tensor of random values, rows first."""
    return matrix(RANDOM.normal(size=shape), kind)


def near(tensor: Stored, size: float = 0.01) -> Stored:
    """The tensor with noise of this size on it."""
    kind, shape, data = tensor
    values = decode(kind, np.frombuffer(data, np.uint8))
    moved = values + np.float32(size) * RANDOM.normal(size=values.shape).astype(np.float32)
    return kind, shape, encode(kind, moved).tobytes()


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The values of all tensors, by the gguf package; its arrays outlive the file."""
    return {t.name: np.array(quants.dequantize(t.data, t.tensor_type)) for t in gguf.GGUFReader(path).tensors}


def extents(path: Path) -> dict[str, slice]:
    """Where in the file the bytes of all tensors are, by the gguf package."""
    return {t.name: slice(t.data_offset, t.data_offset + t.n_bytes) for t in gguf.GGUFReader(path).tensors}


def machine_digest(path: Path) -> str:
    """The model's digest, by a machine that runs it."""
    with RustNeuralBridge() as bridge:
        bridge.initialize(path)
        return bridge.client().digest().model
