"""How ggml's types store numbers: block sizes, f32 to and from F32, F16, BF16 and Q8_0, codes of blocks. Pure.

Bytes are NDArray[uint8] of whole blocks. The layouts are those of ggml-common.h, Q8_0's arithmetic that of ggml's
reference quantiser; the machine's own (vector_boot/src/element) agrees to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES
from numpy.typing import NDArray

from vboot.errors import InputError

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

FLOAT_STORAGE = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Types whose elements can be given as f32: what `decode` and `encode` know."""

_BLOCK = 32
"""Elements in a block of the types in CODE_RANGES."""

CODE_RANGES: Mapping[str, tuple[int, int]] = {
    "Q8_0": (-128, 127),
    "Q4_0": (0, 15),
    "Q4_1": (0, 15),
    "Q5_0": (0, 31),
    "Q5_1": (0, 31),
}
"""Types of blocks with an f16 scale d in front and one integer code an element: its least and greatest value."""


@dataclass(frozen=True)
class Block:
    """The smallest piece of a type that stands alone: so many elements in so many bytes."""

    elements: int
    bytes: int


_BLOCKS: Mapping[str, Block] = {
    **{kind.name: Block(*sizes) for kind, sizes in GGML_QUANT_SIZES.items()},
    # The gguf package takes Q8_1's two f16 for f32, and has no Q2_0 yet.
    "Q8_1": Block(32, 36),
    "Q2_0": Block(64, 18),
}

_DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(f"<{code}")
    for name, code in {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}.items()
}

_NOT_FINITE = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F64": ("<u8", 0x7FF << 52)}
"""By element type: an integer of its width, and the exponent bits that are all set when it is infinite or NaN."""

_SCALES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), ("F16", (0, 2))),  # d, and a minimum or sum
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "Q1_0", "Q2_0"), ("F16", (0,))),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), ("F16", (0,))),
    "Q2_K": ("F16", (80, 82)),
    "Q3_K": ("F16", (108,)),
    "Q6_K": ("F16", (208,)),
    "Q8_K": ("F32", (0,)),
    "TQ1_0": ("F16", (52,)),
    "TQ2_0": ("F16", (64,)),
}
"""By block type: what its scales are, and at which bytes of the block."""


def block_of(kind: str) -> Block:
    """The block of a ggml type, by its name. Raises InputError for a type that is not known."""
    if kind not in _BLOCKS:
        raise InputError(f"{kind!r} is not a tensor type", remedy=f"use one of {', '.join(sorted(_BLOCKS))}")
    return _BLOCKS[kind]


def element_dtype(kind: str) -> np.dtype[Any] | None:
    """The little-endian numpy dtype of the elements of a type; None for block types and BF16, which numpy lacks."""
    return _DTYPES.get(kind)


def decode(kind: str, data: Bytes) -> Floats:
    """The f32 of all elements, in order; a type of FLOAT_STORAGE."""
    with np.errstate(all="ignore"):  # what is not finite stays so
        if kind == "Q8_0":
            blocks = data.reshape(-1, _BLOCKS[kind].bytes)
            decoded: Floats = codes(kind, blocks) * block_scales(blocks)[:, None]
            return decoded.reshape(-1)
        if kind == "BF16":
            return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return data.view("<f4" if kind == "F32" else "<f2").astype(np.float32)


def encode(kind: str, values: Floats) -> Bytes:
    """The bytes of f32 values (n,), rounded to nearest even; a type of FLOAT_STORAGE, whole blocks.

    What the type cannot hold becomes infinite: see `all_finite`.
    """
    with np.errstate(all="ignore"):
        if kind == "Q8_0":
            return _encode_q8_0(values.reshape(-1, _BLOCK))
        if kind == "BF16":
            return _encode_bf16(values)
        return values.astype("<f4" if kind == "F32" else "<f2").view(np.uint8)


def all_finite(kind: str, data: Bytes) -> bool:
    """Whether all elements of whole blocks, or the scales stored in them, are finite. Integers are."""
    if kind in _NOT_FINITE:
        return _are_finite(kind, data)
    blocks = data.reshape(-1, _BLOCKS[kind].bytes)
    if kind in _SCALES:
        scale_kind, places = _SCALES[kind]
        width = _BLOCKS[scale_kind].bytes
        return all(_are_finite(scale_kind, blocks[:, at : at + width].copy()) for at in places)
    if kind == "IQ1_M":  # an f16 in the top nibbles of the last four u16
        nibbles = blocks[:, -8:].copy().view("<u2") >> 12 << np.array([0, 4, 8, 12], np.uint16)
        return _are_finite("F16", np.bitwise_or.reduce(nibbles, axis=1).astype("<u2"))
    if kind == "MXFP4":  # E8M0, whose last code is NaN (OCP Microscaling Formats 1.0)
        return not (blocks[:, 0] == 0xFF).any()
    if kind == "NVFP4":  # four UE4M3, the same
        return not (blocks[:, :4] & 0x7F == 0x7F).any()
    return True


def codes(kind: str, blocks: Bytes) -> NDArray[np.int8]:
    """The integer codes as stored, (n, 32), of blocks (n, bytes) of a type in CODE_RANGES."""
    if kind == "Q8_0":
        return blocks[:, 2:].view(np.int8)
    low_bits = blocks[:, -_BLOCK // 2 :]
    unpacked = np.concatenate([low_bits & 0x0F, low_bits >> 4], axis=1)
    if (fifth := _fifth_bits(kind)) is not None:
        unpacked |= np.unpackbits(blocks[:, fifth], axis=1, bitorder="little") << 4
    return unpacked.view(np.int8)


def store_codes(kind: str, blocks: Bytes, codes: NDArray[np.int8]) -> None:
    """Put codes (n, 32), each within the type's range, into blocks (n, bytes)."""
    unsigned = codes.view(np.uint8)
    if kind == "Q8_0":
        blocks[:, 2:] = unsigned
        return
    half = _BLOCK // 2
    blocks[:, -half:] = unsigned[:, :half] & 0x0F | unsigned[:, half:] << 4
    if (fifth := _fifth_bits(kind)) is not None:
        blocks[:, fifth] = np.packbits(unsigned >> 4, axis=1, bitorder="little")


def block_scales(blocks: Bytes) -> Floats:
    """The scale d (n,) of blocks (n, bytes) of a type in CODE_RANGES."""
    return blocks[:, :2].copy().view("<f2")[:, 0].astype(np.float32)


def _fifth_bits(kind: str) -> slice | None:
    """Where the blocks keep the fifth bits of all codes, for types that have them."""
    return {"Q5_0": slice(2, 6), "Q5_1": slice(4, 8)}.get(kind)


def _encode_bf16(values: Floats) -> Bytes:
    bits = values.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    # Rounding would carry a NaN's payload into the exponent.
    rounded = np.where(np.isnan(values), bits | np.uint32(0x400000), rounded)
    return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)


def _encode_q8_0(values: Floats) -> Bytes:
    """Blocks of d = max|x| / 127 as f16, and x / d rounded half away from zero with the d before its rounding."""
    d = np.abs(values).max(axis=1, initial=0) / np.float32(127)
    # Not ggml's product with the rounded 1 / d, which gives another code beside one tie in a hundred thousand.
    scaled = values / np.where(d == 0, np.float32(np.inf), d)[:, None]
    magnitude = np.abs(scaled)
    floor = np.floor(magnitude)
    rounded = np.copysign(floor + (magnitude - floor >= np.float32(0.5)), scaled)
    blocks = np.empty((len(values), _BLOCKS["Q8_0"].bytes), np.uint8)
    blocks[:, :2] = d.astype("<f2").view(np.uint8).reshape(-1, 2)
    blocks[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return blocks.reshape(-1)


def _are_finite(kind: str, data: NDArray[np.generic]) -> bool:
    width, exponent = _NOT_FINITE[kind]
    return not (data.view(width) & exponent == exponent).any()
