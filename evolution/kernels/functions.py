"""The runtime's elementwise functions in numpy f32, equal to it to the bit. Pure.

The operations, their order and the coefficients are those of vector_boot/src/neural/kernels/functions.rs and
src/pixel/functions.rs. Arrays are NDArray[float32] of any shape.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]

_F = np.float32

EXP_LEAST = -87.0
EXP_ROUNDER = 12_582_912.0
LOG2_E = 1.442_695_040_888_963_4
LN_2_HIGH = 0.693_359_4
LN_2_LOW = -2.121_944_4e-4
FRAC_1_SQRT_2 = 0.707_106_781_186_547_5
EXP = (1.0, 1.0, 0.499_999_91, 0.166_664_2, 0.041_668_232, 0.008_374_899, 0.001_383_674_2)
ERF_LIMIT = 3.95
ERF_NUMERATOR = (1.128_379_1, 0.191_550_12, 0.052_875_42, 0.003_808_154, 2.846_877_6e-4, 2.025_912e-6)
ERF_DENOMINATOR = (1.0, 0.503_089_55, 0.114_559_546, 0.015_055_074, 0.001_170_724_3, 3.783_184_4e-5)
TANH_SERIES = (1.0, -0.333_333_34, 0.133_333_34, -0.053_968_254, 0.021_869_488, -0.008_863_236)
TANH_SERIES_BELOW = 0.3


def mul_add(a: Float32Array | _F, b: Float32Array | _F, c: Float32Array | _F) -> Float32Array:
    """a * b + c with one rounding.

    The product of two f32 is exact in f64; the sum is rounded to odd there, so that rounding it again to f32 gives the
    correctly rounded result (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    of_addend = total - product
    error = (product - (total - of_addend)) + (addend - of_addend)
    bits = total.view(np.int64)
    # False for NaN, which is the error of an infinite sum.
    to_odd = (np.abs(error) > 0) & (bits & 1 == 0)
    moved = bits + np.where(to_odd, np.where((error > 0) == (total > 0), 1, -1), 0)
    fused: Float32Array = moved.view(np.float64).astype(np.float32)
    return fused


def exp(x: Float32Array) -> Float32Array:
    """e^x for x <= 0; e^-87 below -87. NaN gives NaN."""
    x = np.where(x < _F(EXP_LEAST), _F(EXP_LEAST), x)
    shifted = mul_add(x, _F(LOG2_E), _F(EXP_ROUNDER))
    n = shifted - _F(EXP_ROUNDER)
    r = mul_add(n, _F(-LN_2_LOW), mul_add(n, _F(-LN_2_HIGH), x))
    power = ((shifted.view(np.uint32) + np.uint32(127)) << np.uint32(23)).view(np.float32)
    product: Float32Array = _polynomial(r, EXP) * power
    return product


def erf(x: Float32Array) -> Float32Array:
    """erf(x). NaN gives NaN."""
    square = x * x
    ratio = x * _polynomial(square, ERF_NUMERATOR) / _polynomial(square, ERF_DENOMINATOR)
    ratio = np.where((ratio > 1) | (x > _F(ERF_LIMIT)), _F(1), ratio)
    limited: Float32Array = np.where((ratio < -1) | (x < _F(-ERF_LIMIT)), _F(-1), ratio)
    return limited


def relu(x: Float32Array) -> Float32Array:
    """max(x, 0). NaN gives NaN."""
    found: Float32Array = np.where(x < 0, _F(0), x)
    return found


def gelu(x: Float32Array) -> Float32Array:
    """x Φ(x)."""
    half = _F(0.5) * x
    return mul_add(half, erf(x * _F(FRAC_1_SQRT_2)), half)


def sigmoid(x: Float32Array) -> Float32Array:
    """1 / (1 + e^-x)."""
    small = exp(-np.abs(x))
    found: Float32Array = np.where(x < 0, small, _F(1)) / (_F(1) + small)
    return found


def silu(x: Float32Array) -> Float32Array:
    """x / (1 + e^-x)."""
    return x * sigmoid(x)


def tanh(x: Float32Array) -> Float32Array:
    """The hyperbolic tangent; near zero, where (1 - e^-2|x|) / (1 + e^-2|x|) cancels, its Taylor series."""
    series = x * _polynomial(x * x, TANH_SERIES)
    small = exp(_F(-2) * np.abs(x))
    far = (_F(1) - small) / (_F(1) + small) * np.copysign(_F(1), x)
    found: Float32Array = np.where(np.abs(x) < _F(TANH_SERIES_BELOW), series, far)
    return found


def _polynomial(x: Float32Array, coefficients: tuple[float, ...]) -> Float32Array:
    """The polynomial of these coefficients, the constant first, by Horner's rule in fused multiply-adds."""
    total: Float32Array = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = mul_add(total, x, _F(coefficient))
    return total
