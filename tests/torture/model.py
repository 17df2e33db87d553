"""The model under test: small tensors of every type, packed so that neighbours share pages. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from gguf import GGMLQuantizationType

from image.gguf_writer import string
from image.machine_tensors import SLOTS
from image.pixels import SLOT_BYTES
from vboot.gguf import pad_to
from vboot.weights.arithmetic import TensorData
from vboot.weights.storage_types import CODE_RANGES, FLOAT_STORAGE, all_finite, block_of, encode

ALIGNMENT = 32
"""GGUF's default alignment: one page of memory then holds parts of many tensors."""
SLOT_NAMES = tuple(f"evolved.{number}" for number in range(SLOTS))
PROTECTED = ("hw.mmio", "cortex_journal", *(f"kernel.{number}" for number in range(SLOTS)))

_TYPE_NUMBERS = {kind.name: int(kind) for kind in GGMLQuantizationType} | {"Q2_0": 42}
_COPIES = 2
_LARGE_ROWS = 50


def tensors(seed: int) -> dict[str, TensorData]:
    """Every tensor that may change, by name: those of the model, then the empty program slots of the machine.

    Names are KIND.TYPE.NUMBER: `float.*` takes all float edits, `coded.*` steps and scales, `other.*` bytes alone.
    """
    random = Random(seed)
    made = []
    for kind in _TYPE_NUMBERS:
        family = "float" if kind in FLOAT_STORAGE else "coded" if kind in CODE_RANGES else "other"
        block = block_of(kind)
        for number in range(_COPIES):
            # Rows of two blocks, or of an odd number of single elements.
            shape = (2 * block.elements if block.elements > 1 else 37, 3 + 2 * number)
            made.append(_tensor(f"{family}.{kind}.{number}", kind, shape, random))
        if family == "float":
            made.append(_tensor(f"{family}.{kind}.large", kind, (96, _LARGE_ROWS), random))
    slots = [TensorData(name, "I8", (SLOT_BYTES,), bytes(SLOT_BYTES)) for name in SLOT_NAMES]
    return {tensor.name: tensor for tensor in (*made, *slots)}


def gguf_bytes(tensors: Mapping[str, TensorData]) -> bytes:
    """A GGUF file of these tensors, without the slots: the machine adds them itself."""
    own = [tensor for tensor in tensors.values() if tensor.name not in SLOT_NAMES]
    infos, data = b"", bytearray()
    for tensor in own:
        numbers = (*tensor.shape, _TYPE_NUMBERS[tensor.type], len(data))
        name = tensor.name.encode()
        infos += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(tensor.shape)}QIQ", 2, *numbers)
        data += tensor.data
        data += bytes(pad_to(len(data), ALIGNMENT))
    entry = string("general.architecture", "torture")
    key = entry.key.encode()
    head = struct.pack("<4sIQQQ", b"GGUF", 3, len(own), 1, len(key)) + key + entry.value + infos
    return head + bytes(pad_to(len(head), ALIGNMENT)) + bytes(data)


def stored_bytes(kind: str, elements: int, random: Random, *, finite: bool) -> bytes:
    """Random bytes for a number of elements of a type, whole blocks; not `finite`: NaN may be among them."""
    size = elements // block_of(kind).elements * block_of(kind).bytes
    while True:
        if kind in FLOAT_STORAGE and finite:
            data = encode(kind, floats(elements, random)).tobytes()
        elif kind == "F64" and finite:
            data = floats(elements, random).astype("<f8").tobytes()
        else:
            data = random.randbytes(size)
        if not finite or all_finite(kind, np.frombuffer(data, np.uint8)):
            return data


def floats(count: int, random: Random) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """f32 (n,) of one random magnitude, from 2^-28 to 2^4, sometimes far outside."""
    magnitude = random.randint(-28, 4) if random.random() < 0.95 else random.randint(-140, 120)
    whole = np.frombuffer(random.randbytes(4 * count), "<i4").astype(np.float32)
    return np.ldexp(whole, magnitude - 31).astype(np.float32)


def _tensor(name: str, kind: str, shape: Sequence[int], random: Random) -> TensorData:
    return TensorData(name, kind, tuple(shape), _finite_blocks(kind, math.prod(shape), random))


def _finite_blocks(kind: str, elements: int, random: Random) -> bytes:
    """Drawn block by block: many random blocks are hardly ever all finite."""
    size = block_of(kind).elements
    if kind in FLOAT_STORAGE or size == 1:
        return stored_bytes(kind, elements, random, finite=True)
    return b"".join(stored_bytes(kind, size, random, finite=True) for _ in range(elements // size))
