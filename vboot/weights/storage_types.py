"""How ggml types store numbers: block sizes, conversion between f32 and F32, F16, BF16, Q8_0, codes of blocks.

Bytes are uint8 arrays of whole blocks. The layouts are those of ggml-common.h, the arithmetic of Q8_0 is that of ggml's
reference quantiser. The machine's code (vector_boot/src/element) gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from vboot.errors import InputError

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

FLOAT_STORAGE = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Types that `decode` and `encode` convert from and to f32."""

_BLOCK = 32
"""Elements in a block of the types in CODE_RANGES."""

CODE_RANGES: Mapping[str, tuple[int, int]] = {
    "Q8_0": (-128, 127),
    "Q4_0": (0, 15),
    "Q4_1": (0, 15),
    "Q5_0": (0, 31),
    "Q5_1": (0, 31),
}
"""Block types that begin with an f16 scale d and have one integer code per element: its smallest and largest value."""


@dataclass(frozen=True)
class Block:
    """A block, the smallest unit of a type: number of elements and of bytes."""

    elements: int
    bytes: int


_BLOCKS: Mapping[str, Block] = {
    **{kind.name: Block(*sizes) for kind, sizes in GGML_QUANT_SIZES.items()},
    # The gguf package is wrong about Q8_1 (its two f16 are not f32) and does not have Q2_0.
    "Q8_1": Block(32, 36),
    "Q2_0": Block(64, 18),
}

_DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(f"<{code}")
    for name, code in {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}.items()
}

_NOT_FINITE = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F64": ("<u8", 0x7FF << 52)}
"""By element type: an integer type of its width, and its exponent bits, which are all set if it is infinite or NaN."""

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
"""By block type: the type of its scales, and their offsets in the block in bytes."""


def block_of(kind: str) -> Block:
    """The block of a ggml type, by its name. Raises InputError for an unknown type."""
    if kind not in _BLOCKS:
        raise InputError(f"{kind!r} is not a tensor type", remedy=f"use one of {', '.join(sorted(_BLOCKS))}")
    return _BLOCKS[kind]


def element_dtype(kind: str) -> np.dtype[Any] | None:
    """The little-endian numpy dtype of the elements of a type; None for block types and BF16, which numpy lacks."""
    return _DTYPES.get(kind)


def decode(kind: str, data: Bytes) -> Floats:
    """All elements as f32 (n,), in order. `kind`: a type in FLOAT_STORAGE."""
    with np.errstate(all="ignore"):  # infinite values and NaN are kept
        if kind == "Q8_0":
            blocks = data.reshape(-1, _BLOCKS[kind].bytes)
            decoded: Floats = codes(kind, blocks) * block_scales(blocks)[:, None]
            return decoded.reshape(-1)
        if kind == "BF16":
            return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return data.view("<f4" if kind == "F32" else "<f2").astype(np.float32)


def decode_any(kind: str, data: Bytes) -> NDArray[Any] | None:
    """All elements (n,), in order, of a tensor of any type; None for a type that nothing here can decode.

    f32 for types of FLOAT_STORAGE and block types, else the type's own `element_dtype`.
    """
    if kind in FLOAT_STORAGE:
        return decode(kind, data)
    if (dtype := element_dtype(kind)) is not None:
        return data.view(dtype)
    try:
        with np.errstate(all="ignore"):  # infinite values and NaN are kept
            values: Floats = quants.dequantize(data.reshape(-1, block_of(kind).bytes), GGMLQuantizationType[kind])
    except (KeyError, NotImplementedError):
        return None
    return values.reshape(-1)


def encode(kind: str, values: Floats) -> Bytes:
    """The bytes of f32 values (n,), rounded to nearest even. `kind`: a type in FLOAT_STORAGE; n: whole blocks.

    A value too large for the type becomes infinite: see `all_finite`.
    """
    with np.errstate(all="ignore"):
        if kind == "Q8_0":
            return _encode_q8_0(values.reshape(-1, _BLOCK))
        if kind == "BF16":
            return _encode_bf16(values)
        return values.astype("<f4" if kind == "F32" else "<f2").view(np.uint8)


def all_finite(kind: str, data: Bytes) -> bool:
    """Whether all elements, or all scales of blocks, are finite. Always true for integer types."""
    if kind in _NOT_FINITE:
        return _are_finite(kind, data)
    blocks = data.reshape(-1, _BLOCKS[kind].bytes)
    if kind in _SCALES:
        scale_kind, places = _SCALES[kind]
        width = _BLOCKS[scale_kind].bytes
        return all(_are_finite(scale_kind, blocks[:, at : at + width].copy()) for at in places)
    if kind == "IQ1_M":  # its f16 scale is in the highest four bits of each of the last four u16
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
    """Store codes (n, 32), each within the range of the type, in blocks (n, bytes)."""
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
    """The bytes of a block with the fifth bits of all codes; None for types without them."""
    return {"Q5_0": slice(2, 6), "Q5_1": slice(4, 8)}.get(kind)


def _encode_bf16(values: Floats) -> Bytes:
    bits = values.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    # Rounding could carry from the payload of a NaN into its exponent.
    rounded = np.where(np.isnan(values), bits | np.uint32(0x400000), rounded)
    return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)


def _encode_q8_0(values: Floats) -> Bytes:
    """Blocks of d = max|x| / 127 as f16, and codes x / d, with the f32 d, rounded half away from zero."""
    d = np.abs(values).max(axis=1, initial=0) / np.float32(127)
    # ggml multiplies by the rounded 1 / d, which gives another code for one in 100,000 values near a tie.
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
