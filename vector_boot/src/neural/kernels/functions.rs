//! exp and erf in f32, branch-free, by the same operations on every CPU.
#![allow(clippy::excessive_precision, clippy::approx_constant)] // coefficients as the fit gave them

use super::arithmetic::Arithmetic;

/// Evaluates a polynomial, the constant coefficient first, by Horner's rule.
#[inline(always)]
fn polynomial<A: Arithmetic, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = A::mul_add(sum, x, coefficients[i]);
    }
    sum
}

/// e^x for x <= 0, within 2 ulp; e^-87 below -87. NaN gives NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial fitted to least relative error (2e-9).
#[inline(always)]
pub fn exp<A: Arithmetic>(x: f32) -> f32 {
    const LEAST: f32 = -87.0;
    /// Adding this rounds to an integer, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 7] = [1.0, 1.0, 0.499_999_91, 0.166_664_2, 0.041_668_232, 0.008_374_899, 0.001_383_674_2];
    let x = if x < LEAST { LEAST } else { x };
    let shifted = A::mul_add(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = A::mul_add(n, -LN_2_LOW, A::mul_add(n, -LN_2_HIGH, x));
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    polynomial::<A, 7>(r, COEFFICIENTS) * power
}

/// erf(x), within 4e-7. NaN gives NaN.
///
/// x P(x^2) / Q(x^2), fitted to least relative error (2e-8) on |x| <= 3.95; beyond, erf rounds to one.
#[inline(always)]
pub fn erf<A: Arithmetic>(x: f32) -> f32 {
    const LIMIT: f32 = 3.95;
    const NUMERATOR: [f32; 6] = [1.128_379_1, 0.191_550_12, 0.052_875_42, 0.003_808_154, 2.846_877_6e-4, 2.025_912e-6];
    const DENOMINATOR: [f32; 6] = [1.0, 0.503_089_55, 0.114_559_546, 0.015_055_074, 0.001_170_724_3, 3.783_184_4e-5];
    let square = x * x;
    let ratio = x * polynomial::<A, 6>(square, NUMERATOR) / polynomial::<A, 6>(square, DENOMINATOR);
    // The fit exceeds one by an ulp in places, and is not valid beyond the limit.
    let ratio = if ratio > 1.0 || x > LIMIT { 1.0 } else { ratio };
    if ratio < -1.0 || x < -LIMIT {
        -1.0
    } else {
        ratio
    }
}

/// x Φ(x), the form of GELU that bert was trained with.
#[inline(always)]
pub fn gelu<A: Arithmetic>(x: f32) -> f32 {
    let half = 0.5 * x;
    A::mul_add(half, erf::<A>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}
