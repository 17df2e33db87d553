"""The model of the conformance suite: small tensors of every kind of type, random but finite and always the same."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from tests.conformance.reference import BLOCK_BYTES, FLOATS, Bytes, to_storage

_SEED = 20_260_714
COLUMNS, ROWS = 64, 5


QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
INTEGERS = {"I8": 1, "I16": 2, "I32": 4, "I64": 8}
_FACTORS_AT = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q6_K": (208,)}
EVOLVED = tuple(f"evolved.{slot}" for slot in range(8))
EVOLVED_BYTES = 4096


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: GGUF type name, shape as ne0, ne1, ... and its bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: bytes


def _blocks(kind: str, count: int, random: np.random.Generator) -> bytes:
    """Blocks of random codes with small finite f16 factors."""
    raw = random.integers(0, 256, (count, BLOCK_BYTES[kind]), dtype=np.uint8)
    for at in _FACTORS_AT[kind]:
        raw[:, at : at + 2] = random.uniform(0.001, 0.01, count).astype("<f2").view(np.uint8).reshape(count, 2)
    return raw.tobytes()


def _matrix(kind: str, random: np.random.Generator) -> bytes:
    values = random.normal(0, 0.05, COLUMNS * ROWS).astype(np.float32)
    if kind in FLOATS or kind == "Q8_0":
        return to_storage(kind, values)
    return _blocks(kind, COLUMNS * ROWS // 32, random)


@functools.cache
def tensors() -> tuple[Tensor, ...]:
    """What the file holds: `w.TYPE` is a matrix, `v.TYPE` a vector, `big` is more than a blob."""
    random = np.random.default_rng(_SEED)
    made = [Tensor(f"w.{kind}", kind, (COLUMNS, ROWS), _matrix(kind, random)) for kind in (*FLOATS, *QUANTISED)]
    made += [Tensor(f"v.{kind}", kind, (48,), random.bytes(48 * size)) for kind, size in INTEGERS.items()]
    made += [
        Tensor("v.F64", "F64", (24,), random.normal(0, 1, 24).astype("<f8").tobytes()),
        Tensor("v.F32", "F32", (37,), to_storage("F32", random.normal(0, 1, 37).astype(np.float32))),
        Tensor("v.Q4_0", "Q4_0", (128,), _blocks("Q4_0", 4, random)),
        Tensor("w.Q6_K", "Q6_K", (256, 2), _blocks("Q6_K", 2, random)),
        Tensor("cube.F32", "F32", (4, 3, 2), to_storage("F32", random.normal(0, 1, 24).astype(np.float32))),
        Tensor("big", "F32", (1024, 300), to_storage("F32", random.normal(0, 1, 1024 * 300).astype(np.float32))),
    ]
    for layer in range(3):
        values = random.normal(0, 0.05, 64).astype(np.float32)
        made.append(Tensor(f"blk.{layer}.ffn.weight", "F16", (32, 2), to_storage("F16", values)))
        made.append(Tensor(f"blk.{layer}.ffn.bias", "F32", (32,), to_storage("F32", values[:32])))
    return tuple(made)


@functools.cache
def mutable() -> dict[str, Tensor]:
    """Every unprotected tensor of the machine by name: the model's, and the empty program slots it adds."""
    slots = (Tensor(name, "I8", (EVOLVED_BYTES,), bytes(EVOLVED_BYTES)) for name in EVOLVED)
    return {tensor.name: tensor for tensor in (*tensors(), *slots)}


def write_model(path: Path, *, mutation_key: bytes | None = None) -> Path:
    """Write the GGUF. Its architecture is unknown, so it boots and accepts mutations but cannot embed.

    With a `mutation_key`, a public one, the machine takes signed changes only.
    """
    writer = GGUFWriter(path, "conformance", use_temp_file=False)
    if mutation_key is not None:
        writer.add_string("vector_boot.mutation_key", mutation_key.hex())
    for tensor in tensors():
        kind = GGMLQuantizationType[tensor.kind]
        rest = tensor.shape[1:]
        stride = len(tensor.data) // int(np.prod(rest, dtype=np.int64)) if rest else len(tensor.data)
        raw: Bytes = np.frombuffer(tensor.data, np.uint8).reshape(*reversed(rest), stride)
        writer.add_tensor(tensor.name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
