"""Storage types against the gguf package, and against values worked out by hand."""

from __future__ import annotations

import math
import struct

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.mutation_vectors import INTEGER_TYPES, NOT_FINITE, random_bytes, tensor
from vboot.errors import InputError
from vboot.weights.storage_types import (
    CODE_RANGES,
    FLOAT_STORAGE,
    all_finite,
    block_of,
    block_scales,
    codes,
    decode,
    encode,
    store_codes,
)

_KINDS = sorted(FLOAT_STORAGE)
_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _f32(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(_KINDS), st.lists(_FINITE, min_size=32, max_size=32))
def test_encode_is_ggufs(kind: str, values: list[float]) -> None:
    floats = _f32(values)
    largest = float(np.abs(floats).max())
    if kind == "Q8_0" and 0 < largest < 1e-36:  # gguf's inverse overflows there
        return
    with np.errstate(all="ignore"):
        expected = quants.quantize(floats.reshape(1, 32), gguf.GGMLQuantizationType[kind])
    assert encode(kind, floats).tobytes() == expected.tobytes()


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(_KINDS), st.binary(min_size=136, max_size=136))
def test_decode_is_ggufs(kind: str, data: bytes) -> None:
    stored = np.frombuffer(data, np.uint8)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(stored, gguf.GGMLQuantizationType[kind]).reshape(-1)
        decoded = decode(kind, stored)
    assert np.array_equal(decoded, expected, equal_nan=True)
    assert (np.signbit(decoded) == np.signbit(expected)).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_what_is_stored_comes_back_to_the_bit(kind: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype("<u2" if kind != "F32" else "<u4").view(np.uint8)
    finite = np.isfinite(decode(kind, every))
    assert encode(kind, decode(kind, every)).reshape(len(finite), -1)[finite].tobytes() == (
        every.reshape(len(finite), -1)[finite].tobytes()
    )


@settings(derandomize=True, deadline=None)
@given(st.floats(width=32))
def test_rounding_is_that_of_struct_and_of_bits(value: float) -> None:
    if abs(value) < 65504:
        assert encode("F16", _f32([value])).tobytes() == struct.pack("<e", value)
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    kept, lost = bits >> 16, bits & 0xFFFF
    up = lost > 0x8000 or (lost == 0x8000 and kept & 1)
    stored = encode("BF16", _f32([value]))
    if not math.isnan(value):
        assert stored.tobytes() == struct.pack("<H", kept + up)
    else:
        assert not all_finite("BF16", stored)


def test_q8_0_rounds_half_away_from_zero() -> None:
    values = _f32([127, 0.5, -0.5, 1.5, -2.5, 0.49999997, -0.49999997, 126.5, *[0] * 24])
    stored = encode("Q8_0", values)
    assert stored[:2].view("<f2")[0] == 1
    assert stored[2:10].view(np.int8).tolist() == [127, 1, -1, 2, -3, 0, 0, 127]


@pytest.mark.parametrize(("size", "code"), [(0.0, 0), (1e-45, 0), (1e-40, 127), (3e-37, 127)])
def test_q8_0_blocks_too_small_for_their_scale_keep_their_codes(size: float, code: int) -> None:
    stored = encode("Q8_0", np.full(32, size, np.float32))
    assert not stored[:2].any()
    assert (stored[2:].view(np.int8) == code).all()


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3.4028235e38])
def test_what_cannot_be_held_is_not_finite(kind: str, value: float) -> None:
    stored = encode(kind, _f32([1.0] * 31 + [value]))
    assert all_finite(kind, stored) == (kind == "F32" and value < float("inf") and value > 0)


@pytest.mark.parametrize("kind", [*NOT_FINITE, *INTEGER_TYPES])
def test_not_finite_scales_are_found_wherever_they_are(kind: str) -> None:
    block = block_of(kind)
    good = np.frombuffer(tensor(kind, [3 * block.elements]).data, np.uint8)
    assert all_finite(kind, good)
    for at, pattern in NOT_FINITE.get(kind, ()):
        for number in range(3):
            bad = good.copy()
            start = number * block.bytes + at
            bad[start : start + len(pattern)] = np.frombuffer(pattern, np.uint8)
            assert not all_finite(kind, bad)


def test_every_type_of_gguf_has_a_rule() -> None:
    assert {kind.name for kind in gguf.GGML_QUANT_SIZES} <= {*NOT_FINITE, *INTEGER_TYPES}


@pytest.mark.parametrize("kind", sorted({kind.name for kind in gguf.GGML_QUANT_SIZES} & set(NOT_FINITE)))
def test_ggufs_values_are_finite_where_the_scales_are(kind: str) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    block = block_of(kind)
    good = np.frombuffer(tensor(kind, [block.elements]).data, np.uint8)
    try:
        decoded = quants.dequantize(good, quantisation)
    except NotImplementedError:
        return  # gguf cannot read Q8_1, Q8_K, F64
    assert np.isfinite(decoded).all()
    for at, pattern in NOT_FINITE[kind]:
        if kind in ("MXFP4", "NVFP4"):
            continue  # gguf reads their NaN as a number
        bad = good.copy()
        bad[at : at + len(pattern)] = np.frombuffer(pattern, np.uint8)
        with np.errstate(all="ignore"):
            assert not np.isfinite(quants.dequantize(bad, quantisation)).all()


@pytest.mark.parametrize("kind", list(CODE_RANGES))
def test_codes_are_those_that_gguf_multiplies(kind: str) -> None:
    blocks = random_bytes(f"codes {kind}", 20 * block_of(kind).bytes).reshape(20, -1)
    blocks[:, 0:2] = np.array([1.0], "<f2").view(np.uint8)
    if kind in ("Q4_1", "Q5_1"):
        blocks[:, 2:4] = 0
    centre = {"Q4_0": 8, "Q5_0": 16}.get(kind, 0)
    expected = quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]) + centre
    assert codes(kind, blocks).tolist() == expected.tolist()
    assert block_scales(blocks).tolist() == [1.0] * 20


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(list(CODE_RANGES)), st.data())
def test_stored_codes_are_read_again_and_touch_nothing_else(kind: str, data: st.DataObject) -> None:
    size = block_of(kind).bytes
    blocks = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8).reshape(1, -1).copy()
    original = blocks.copy()
    wanted = data.draw(st.lists(st.integers(*CODE_RANGES[kind]), min_size=32, max_size=32))
    before = codes(kind, blocks).copy()
    store_codes(kind, blocks, np.array([wanted], np.int8))
    assert codes(kind, blocks).tolist() == [wanted]
    store_codes(kind, blocks, before)
    assert (blocks == original).all()


def test_sizes_are_ggmls() -> None:
    assert (block_of("Q8_1").bytes, block_of("Q2_0").elements, block_of("Q6_K").bytes) == (36, 64, 210)
    with pytest.raises(InputError, match="'Q9' is not a tensor type"):
        block_of("Q9")
