"""What every edit must leave behind, to the byte: the protocol's arithmetic in plain numpy float32, step by step.

Values are little-endian float32 arrays in element order; storage is bytes. Block layouts are GGUF's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

FLOATS = ("F32", "F16", "BF16")
CODE_LIMITS = {"Q8_0": (-128, 127), "Q4_0": (0, 15), "Q4_1": (0, 15), "Q5_0": (0, 31), "Q5_1": (0, 31)}
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q6_K": 210}
_CODES_AT = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4, "Q5_0": 2, "Q5_1": 4}


def blocks_of(kind: str, data: bytes) -> Bytes:
    """The blocks of a quantised tensor, one a row, writable."""
    return np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES[kind]).copy()


def _bf16(values: F32) -> bytes:
    """The upper half of each float32, rounded to nearest, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def _half_away(values: F32) -> F32:
    whole = np.trunc(values)
    away = np.abs(values - whole) >= np.float32(0.5)
    return np.where(away, whole + np.sign(values), whole).astype(np.float32)


def _quantise_q8(block: F32) -> bytes:
    """One block of 32: d = max|x| / 127 as f32, codes half away from zero with that d, d stored as f16."""
    d = np.max(np.abs(block)) / np.float32(127)
    codes = _half_away(block / d) if d > 0 else np.zeros(32, np.float32)
    with np.errstate(over="ignore"):
        return np.float16(d).tobytes() + codes.astype(np.int8).tobytes()


def to_storage(kind: str, values: F32) -> bytes:
    """Float32 values in their storage type, rounded to nearest even (Q8_0: its own rule)."""
    if kind == "F32":
        return values.astype("<f4").tobytes()
    if kind == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype("<f2").tobytes()
    if kind == "BF16":
        return _bf16(values)
    assert kind == "Q8_0", kind
    return b"".join(_quantise_q8(block) for block in values.reshape(-1, 32))


def from_storage(kind: str, data: bytes) -> F32:
    """The float32 values a tensor stands for."""
    if kind == "F32":
        return np.frombuffer(data, "<f4").copy()
    if kind == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    assert kind == "Q8_0", kind
    blocks = blocks_of(kind, data)
    d = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return (d * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(-1)


def _rewritten(kind: str, data: bytes, values: F32, touched: NDArray[np.bool_]) -> bytes:
    """The tensor with the touched elements' values; on Q8_0 blocks without one keep their bytes."""
    if kind != "Q8_0":
        size = {"F32": 4, "F16": 2, "BF16": 2}[kind]
        old = np.frombuffer(data, np.uint8).reshape(-1, size)
        new = np.frombuffer(to_storage(kind, values), np.uint8).reshape(-1, size)
        return np.where(touched[:, None], new, old).tobytes()
    old = blocks_of(kind, data)
    for at in np.flatnonzero(touched.reshape(-1, 32).any(axis=1)):
        old[at] = np.frombuffer(_quantise_q8(values[at * 32 : at * 32 + 32]), np.uint8)
    return old.tobytes()


def dense(data: bytes, offset: int, part: bytes) -> bytes:
    """Storage bytes replaced."""
    return data[:offset] + part + data[offset + len(part) :]


def sparse(kind: str, data: bytes, op: str, indices: list[int], operands: list[float]) -> bytes:
    """Elements set or added to."""
    values = from_storage(kind, data)
    touched = np.zeros(values.size, bool)
    for index, operand in zip(indices, np.array(operands, np.float32), strict=True):
        values[index] = operand if op == "set" else values[index] + operand
        touched[index] = True
    return _rewritten(kind, data, values, touched)


def low_rank(kind: str, data: bytes, *, a: F32, b: F32, scale: float) -> bytes:
    """w[j, i] += scale * sum over k, ascending, of a[j, k] * b[i, k]; a is [ne1, r], b [ne0, r]."""
    values = from_storage(kind, data).reshape(len(a), len(b))
    total = np.zeros_like(values)
    for k in range(a.shape[1]):
        total = total + a[:, k][:, None] * b[:, k][None, :]
    with np.errstate(over="ignore", under="ignore"):
        values = values + np.float32(scale) * total
    return _rewritten(kind, data, values.reshape(-1), np.ones(values.size, bool))


def noise(seed: str, name: str, count: int) -> NDArray[np.uint64]:
    """The raw words of the tensor's own Philox stream."""
    digest = hashlib.sha256(b"vb1" + bytes.fromhex(seed) + name.encode()).digest()
    words = np.random.Philox(key=np.frombuffer(digest[:16], "<u8")).random_raw(count)
    return np.asarray(words, np.uint64)


def _selected(words: NDArray[np.uint64], density: float) -> NDArray[np.bool_]:
    return (words & np.uint64(0xFFFFFFFF)) < np.uint64(int(density * 2**32))


def _z(words: NDArray[np.uint64]) -> F32:
    ones = np.array([int(word >> np.uint64(32)).bit_count() for word in words])
    return ((ones - 16) / 4).astype(np.float32)


def codes(kind: str, block: Bytes) -> list[int]:
    """The 32 codes of one block."""
    if kind == "Q8_0":
        return [int(code) for code in block[2:].view(np.int8)]
    at = _CODES_AT[kind]
    high = 0
    if kind in ("Q5_0", "Q5_1"):
        high, at = int.from_bytes(block[at : at + 4].tobytes(), "little"), at + 4
    low = [int(byte) & 15 for byte in block[at:]] + [int(byte) >> 4 for byte in block[at:]]
    return [code | (high >> place & 1) << 4 for place, code in enumerate(low)]


def with_codes(kind: str, block: Bytes, new: list[int]) -> Bytes:
    """The block with other codes, its factors kept."""
    if kind == "Q8_0":
        return np.concatenate([block[:2], np.array(new, np.int8).view(np.uint8)])
    head = block[: _CODES_AT[kind]].tobytes()
    if kind in ("Q5_0", "Q5_1"):
        head += sum((code >> 4) << place for place, code in enumerate(new)).to_bytes(4, "little")
    low = bytes(new[place] & 15 | (new[place + 16] & 15) << 4 for place in range(16))
    return np.frombuffer(head + low, np.uint8)


def _normal(kind: str, data: bytes, words: NDArray[np.uint64], density: float, scale: float) -> bytes:
    values = from_storage(kind, data)
    chosen = _selected(words, density)
    with np.errstate(over="ignore", under="ignore"):
        moved = values + np.float32(scale) * _z(words)
    return _rewritten(kind, data, np.where(chosen, moved, values).astype(np.float32), chosen)


def _step(kind: str, data: bytes, words: NDArray[np.uint64], density: float, scale: float) -> bytes:
    assert scale == 1
    least, most = CODE_LIMITS[kind]
    chosen = _selected(words, density)
    moves = [(1 if int(word) >> 63 else -1) if pick else 0 for word, pick in zip(words, chosen, strict=True)]
    blocks = blocks_of(kind, data)
    for at, block in enumerate(blocks):
        pairs = zip(codes(kind, block), moves[at * 32 : at * 32 + 32], strict=True)
        blocks[at] = with_codes(kind, block, [min(max(code + move, least), most) for code, move in pairs])
    return blocks.tobytes()


def _scale(kind: str, data: bytes, words: NDArray[np.uint64], density: float, scale: float) -> bytes:
    blocks = blocks_of(kind, data)
    d = blocks[:, :2].copy().view("<f2").reshape(-1).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        moved = (d * (np.float32(1) + np.float32(scale) * _z(words))).astype("<f2")
    chosen = _selected(words, density)
    blocks[chosen, :2] = moved.view(np.uint8).reshape(-1, 2)[chosen]
    return blocks.tobytes()


_FORMS: Mapping[str, Callable[[str, bytes, NDArray[np.uint64], float, float], bytes]] = {
    "normal": _normal,
    "step": _step,
    "scale": _scale,
}


def seeded(kind: str, name: str, data: bytes, edit: Mapping[str, Any]) -> bytes:
    """One tensor under a `seeded` edit."""
    count = len(data) // {"F32": 4, "F16": 2, "BF16": 2}[kind] if kind in FLOATS else len(data) // BLOCK_BYTES[kind]
    if kind not in FLOATS and edit["form"] != "scale":
        count *= 32
    words = noise(edit["seed"], name, count)
    return _FORMS[edit["form"]](kind, data, words, edit["density"], edit["scale"])


def model_digest(contents: Mapping[str, bytes]) -> str:
    """SHA-256 over all unprotected tensors in name order of name, 0x00, SHA-256(bytes)."""
    total = hashlib.sha256()
    for name in sorted(contents, key=str.encode):
        total.update(name.encode() + b"\0" + hashlib.sha256(contents[name]).digest())
    return total.hexdigest()
