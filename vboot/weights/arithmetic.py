"""The effect of edits as the machine computes it, equal to the bit: its checks in the same order, and its arithmetic.

    new_bytes = apply(edits, tensors, protected={"hw.mmio"})

Everything is computed in f32, multiply and add rounded separately, and rounded to the storage type after each edit. The
specification is the section "Edits" of the evolution protocol.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from vboot.errors import InputError
from vboot.protocol.tables import PROGRAM_PIXELS_LIMIT, RANK_LIMIT, REMEDIES, Code
from vboot.weights import noise
from vboot.weights.edits import SEED, Dense, Edit, LowRank, Program, Seeded, Sparse
from vboot.weights.storage_types import (
    CODE_RANGES,
    FLOAT_STORAGE,
    Bytes,
    all_finite,
    block_of,
    block_scales,
    codes,
    decode,
    encode,
    store_codes,
)

_CHUNK = 1 << 16
"""Elements computed at a time, so that their words and values stay in the second-level cache."""
_SLOT_BYTES = 4096


@dataclass(frozen=True)
class TensorData:
    """A tensor: ggml type, shape (fastest dimension first), and its bytes in that type."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: bytes


class EditError(InputError):
    """The machine would refuse these edits. Attributes: `code`, the error code of the protocol; `text`, the reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {int(code)})", remedy=REMEDIES.get(code))
        self.code = code
        self.text = text


def apply(edits: Sequence[Edit], tensors: Mapping[str, TensorData], protected: Collection[str]) -> dict[str, bytes]:
    """Apply the edits in order; returns the new bytes of every tensor that they change, by name.

    `tensors`: by name, at least those that `targets` names. Raises EditError with the code that the machine would send.
    """
    changed = dict(each_change(edits, tensors, protected))
    if not changed:
        raise EditError(Code.NO_CHANGE, "the edits change nothing")
    return changed


def each_change(
    edits: Sequence[Edit], tensors: Mapping[str, TensorData], protected: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Name and new bytes of each changed tensor, like `apply`, but one at a time, so that they need not fit in memory.

    Raises EditError at once for all that does not depend on values; it is no error if the edits change nothing.
    """
    for number, edit in enumerate(edits):
        _check_params(number, edit)
    work: dict[str, list[tuple[int, Edit]]] = {}
    for number, edit in enumerate(edits):
        for name in _judge(number, edit, tensors, protected):
            work.setdefault(name, []).append((number, edit))
    results = ((name, _apply_all(own_edits, tensors[name])) for name, own_edits in work.items())
    return ((name, data) for name, data in results if data != tensors[name].data)


def targets(edit: Edit, names: Collection[str], protected: Collection[str]) -> list[str]:
    """The tensors of an edit: the one with that name, protected or not, or all unprotected ones that a glob matches."""
    pattern = edit.tensors if isinstance(edit, Seeded) else edit.tensor
    if pattern in names:
        return [pattern]
    if not isinstance(edit, Seeded):
        return []
    return [name for name in names if name not in protected and fnmatchcase(name, pattern)]


def _apply_all(edits: Sequence[tuple[int, Edit]], tensor: TensorData) -> bytes:
    data = np.frombuffer(tensor.data, np.uint8).copy()
    for number, edit in edits:
        with np.errstate(all="ignore"):  # values that are not finite are found in the stored bytes
            finite = _apply_one(edit, tensor, data)
        if not finite:
            raise EditError(Code.NOT_FINITE, f"edit {number}: a value of {tensor.name!r} would not be finite")
    return data.tobytes()


def _check_params(number: int, edit: Edit) -> None:
    """Raise EditError for what the machine refuses before it looks at any tensor."""
    match edit:
        case Dense():
            wrong = "the offset is negative" if edit.offset < 0 else None
        case Sparse():
            increasing = bool((edit.indices[1:] > edit.indices[:-1]).all())
            wrong = None if increasing else "the indices are not strictly increasing"
        case LowRank():
            wrong = None if 1 <= edit.a.shape[1] <= RANK_LIMIT else f"the rank is not 1 to {RANK_LIMIT}"
            wrong = wrong if math.isfinite(edit.scale) else "the scale is not finite"
        case Seeded():
            wrong = None if 0 <= edit.density <= 1 else "the density is not 0 to 1"
            wrong = wrong if math.isfinite(edit.scale) else "the scale is not finite"
            wrong = wrong if SEED.fullmatch(edit.seed) else "the seed is not 16 lower-case hex digits"
            wrong = "the scale must be 1 for steps" if edit.form == "step" and edit.scale != 1 else wrong
        case Program():
            wrong = None
    if wrong:
        raise EditError(Code.INVALID_PARAMS, f"edit {number}: {wrong}")


def _judge(number: int, edit: Edit, tensors: Mapping[str, TensorData], protected: Collection[str]) -> Iterator[str]:
    """The names of the tensors of an edit, each after its checks. Raises EditError."""

    def refuse(code: int, text: str) -> EditError:
        return EditError(code, f"edit {number}: {text}")

    names = targets(edit, tensors, protected)
    if not names:
        pattern = edit.tensors if isinstance(edit, Seeded) else edit.tensor
        raise refuse(Code.UNKNOWN_TENSOR, f"there is no tensor {pattern!r} that may change")
    for name in names:
        tensor = tensors[name]
        if name in protected:
            raise refuse(Code.PROTECTED_TENSOR, f"{name!r} is protected")
        if misfit := _misfit(edit, tensor):
            raise refuse(Code.MISMATCH, misfit)
        if not _supports(edit, tensor.type):
            raise refuse(
                Code.UNSUPPORTED_EDIT, f"{name!r} has type {tensor.type}, which does not support a {_kind(edit)}"
            )
        if outside := _outside(edit, tensor):
            raise refuse(Code.OUT_OF_BOUNDS, outside)
        yield name


def _misfit(edit: Edit, tensor: TensorData) -> str | None:
    """What is wrong with lengths and shapes; None if nothing is."""
    match edit:
        case Dense():
            size = block_of(tensor.type).bytes
            if edit.offset % size or len(edit.data) % size:
                return f"offset and length must be multiples of {size}, the bytes of a {tensor.type} block"
        case Sparse():
            if edit.indices.shape != edit.values.shape:
                return f"{len(edit.indices)} indices have {len(edit.values)} values"
        case LowRank():
            rank = edit.a.shape[1]
            if len(tensor.shape) != 2:
                return f"{tensor.name!r} has {len(tensor.shape)} dimensions, expected 2"
            if (edit.b.shape, edit.a.shape) != ((tensor.shape[0], rank), (tensor.shape[1], rank)):
                return (
                    f"factors of {edit.a.shape} and {edit.b.shape} do not fit {tensor.name!r} of shape {tensor.shape}"
                )
        case Program():
            return _program_misfit(edit.pixels, tensor)
    return None


def _program_misfit(pixels: bytes, tensor: TensorData) -> str | None:
    is_slot = tensor.name.startswith("evolved.") and len(tensor.data) == _SLOT_BYTES
    if tensor.type == "I8" and not is_slot:  # a tensor of another type is left to the check of the type
        return f"{tensor.name!r} is not a slot for a program: the slots are evolved.0 to evolved.7"
    if len(pixels) % 3:
        return f"expected whole pixels of 3 bytes, got {len(pixels)} bytes"
    if len(pixels) > 3 * PROGRAM_PIXELS_LIMIT:
        return f"{len(pixels) // 3} pixels are more than the {PROGRAM_PIXELS_LIMIT} that a slot holds"
    return None


def _kind(edit: Edit) -> str:
    """The kind of an edit, for errors."""
    match edit:
        case Dense():
            return "dense edit"
        case Sparse():
            return "sparse edit"
        case LowRank():
            return "low-rank edit"
        case Seeded():
            return f"seeded edit of form {edit.form}"
        case Program():
            return "program"


def _supports(edit: Edit, kind: str) -> bool:
    match edit:
        case Dense():
            return True
        case Seeded(form="step" | "scale"):
            return kind in CODE_RANGES
        case Program():
            return kind == "I8"
        case _:
            return kind in FLOAT_STORAGE


def _outside(edit: Edit, tensor: TensorData) -> str | None:
    """What of the edit lies outside the tensor; None if nothing does."""
    match edit:
        case Dense() if edit.offset + len(edit.data) > len(tensor.data):
            end = edit.offset + len(edit.data)
            return f"bytes {edit.offset} to {end} lie outside {tensor.name!r} of {len(tensor.data)} bytes"
        case Sparse() if len(edit.indices) and int(edit.indices[-1]) >= math.prod(tensor.shape):
            return f"element {edit.indices[-1]} lies outside {tensor.name!r} of {math.prod(tensor.shape)} elements"
    return None


def _apply_one(edit: Edit, tensor: TensorData, data: Bytes) -> bool:
    """Change `data`, all bytes of the tensor, in place; whether all values stored are finite."""
    match edit:
        case Dense():
            new = np.frombuffer(edit.data, np.uint8)
            data[edit.offset : edit.offset + len(new)] = new
            return all_finite(tensor.type, new)
        case Program():
            slot = (len(edit.pixels) // 3).to_bytes(4, "little") + edit.pixels
            data[:] = np.frombuffer(slot.ljust(_SLOT_BYTES, b"\0"), np.uint8)
            return True
        case Sparse():
            return _apply_sparse(edit, tensor.type, data)
        case LowRank():
            return _apply_low_rank(edit, tensor.type, data)
        case Seeded():
            return _apply_seeded(edit, tensor, data)


def _apply_sparse(edit: Sparse, kind: str, data: Bytes) -> bool:
    block = block_of(kind)
    blocks = data.reshape(-1, block.bytes)
    numbers, within = np.divmod(edit.indices.astype(np.int64), block.elements)
    touched, rows = np.unique(numbers, return_inverse=True)
    values = decode(kind, blocks[touched]).reshape(-1, block.elements)
    values[rows, within] = edit.values if edit.op == "set" else values[rows, within] + edit.values
    stored = encode(kind, values.reshape(-1))
    blocks[touched] = stored.reshape(-1, block.bytes)
    return all_finite(kind, stored)


def _apply_low_rank(edit: LowRank, kind: str, data: Bytes) -> bool:
    """Computed a few rows at a time, so that the sums stay in the cache."""
    columns, rank = edit.b.shape
    b = np.ascontiguousarray(edit.b.T)
    rows_data = data.reshape(len(edit.a), -1)
    chunk = max(1, _CHUNK // columns)
    for start in range(0, len(edit.a), chunk):
        rows, a = rows_data[start : start + chunk], edit.a[start : start + chunk]
        sums = np.zeros((len(a), columns), np.float32)
        products = np.empty_like(sums)
        for k in range(rank):
            sums += np.multiply(a[:, k, None], b[k], out=products)
        sums *= np.float32(edit.scale)
        stored = encode(kind, decode(kind, rows.reshape(-1)) + sums.reshape(-1))
        if not all_finite(kind, stored):
            return False
        rows[:] = stored.reshape(rows.shape)
    return True


def _apply_seeded(edit: Seeded, tensor: TensorData, data: Bytes) -> bool:
    key = noise.key(edit.seed, tensor.name)
    block = block_of(tensor.type)
    blocks = data.reshape(-1, block.bytes)
    words_per_block = 1 if edit.form == "scale" else block.elements
    chunk = _CHUNK // words_per_block
    for start in range(0, len(blocks), chunk):
        some = blocks[start : start + chunk]
        words = noise.words(key, start * words_per_block, len(some) * words_per_block)
        selected = noise.selected(words, edit.density)
        match edit.form:
            case "normal":
                finite = _add_noise(edit.scale, tensor.type, some, words, selected)
            case "step":
                finite = _step_codes(tensor.type, some, words, selected)
            case "scale":
                finite = _scale_blocks(edit.scale, tensor.type, some, words, selected)
        if not finite:
            return False
    return True


def _add_noise(scale: float, kind: str, blocks: Bytes, words: NDArray[np.uint64], selected: NDArray[np.bool_]) -> bool:
    """x += scale * z for selected elements; Q8_0 blocks without selected elements keep their bytes."""
    factor = np.float32(scale)
    if kind == "Q8_0":
        chosen = selected.reshape(len(blocks), -1)
        touched = np.flatnonzero(chosen.any(axis=1))
        values = decode(kind, blocks[touched]).reshape(-1, chosen.shape[1])
        noisy = values + factor * noise.z(words.reshape(chosen.shape)[touched])
        stored = encode(kind, np.where(chosen[touched], noisy, values).reshape(-1))
        blocks[touched] = stored.reshape(-1, blocks.shape[1])
        return all_finite(kind, stored)
    elements = blocks.reshape(-1).view(f"<u{block_of(kind).bytes}")
    touched = np.flatnonzero(selected)
    values = decode(kind, elements[touched].view(np.uint8))
    stored = encode(kind, values + factor * noise.z(words[touched]))
    elements[touched] = stored.view(elements.dtype)
    return all_finite(kind, stored)


def _step_codes(kind: str, blocks: Bytes, words: NDArray[np.uint64], selected: NDArray[np.bool_]) -> bool:
    """Selected codes change by +1 if the highest bit of the word is set, else by -1, within their range."""
    up = (words >> np.uint64(63)).astype(np.int16)
    moves = np.where(selected, 2 * up - 1, 0).reshape(len(blocks), -1)
    moved = np.clip(codes(kind, blocks) + moves, *CODE_RANGES[kind])
    store_codes(kind, blocks, moved.astype(np.int8))
    return True


def _scale_blocks(
    scale: float, kind: str, blocks: Bytes, words: NDArray[np.uint64], selected: NDArray[np.bool_]
) -> bool:
    """d becomes d * (1 + scale * z)."""
    touched = np.flatnonzero(selected)
    grown = block_scales(blocks[touched]) * (np.float32(1) + np.float32(scale) * noise.z(words[touched]))
    stored = encode("F16", grown)
    blocks[touched, :2] = stored.reshape(-1, 2)
    return all_finite("F16", stored)
