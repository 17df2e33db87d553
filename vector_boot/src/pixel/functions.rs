//! The functions of one number: the same operations on every machine, never the C library's.

/// Evaluates a polynomial, the constant coefficient first, by Horner's rule.
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// e^x for x <= 0, within 2 ulp; e^-87 below -87. A NaN stays one.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial fitted to least relative error (2e-9).
pub fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 7] = [1.0, 1.0, 0.499_999_9, 0.166_664_2, 0.041_668_232, 0.008_374_899, 0.001_383_674_2];
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    polynomial(r, &COEFFICIENTS) * power
}

/// erf(x), within 4e-7. A NaN stays one.
///
/// x P(x^2) / Q(x^2), fitted to least relative error (2e-8) on |x| <= 3.95; beyond, erf rounds to one.
fn erf(x: f32) -> f32 {
    const LIMIT: f32 = 3.95;
    // Fitted: one ulp from 2 / sqrt(pi).
    #[allow(clippy::approx_constant)]
    const NUMERATOR: [f32; 6] = [1.128_379_1, 0.191_550_12, 0.052_875_42, 0.003_808_154, 2.846_877_6e-4, 2.025_912e-6];
    const DENOMINATOR: [f32; 6] = [1.0, 0.503_089_55, 0.114_559_546, 0.015_055_074, 0.001_170_724_3, 3.783_184_4e-5];
    if x.abs() > LIMIT {
        return if x > 0.0 { 1.0 } else { -1.0 };
    }
    let square = x * x;
    let ratio = x * polynomial(square, &NUMERATOR) / polynomial(square, &DENOMINATOR);
    // The fit strays an ulp above one.
    if ratio.abs() > 1.0 {
        ratio.signum()
    } else {
        ratio
    }
}

/// max(x, 0). A NaN stays one.
pub fn relu(x: f32) -> f32 {
    if x < 0.0 {
        0.0
    } else {
        x
    }
}

/// x Φ(x), by erf.
pub fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    erf(x * std::f32::consts::FRAC_1_SQRT_2).mul_add(half, half)
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    let small = exp(-x.abs());
    let numerator = if x < 0.0 { small } else { 1.0 };
    numerator / (1.0 + small)
}

/// x / (1 + e^-x).
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; near zero, where that cancels, its Taylor series.
pub fn tanh(x: f32) -> f32 {
    /// 1, -1/3, 2/15, -17/315, 62/2835, -1382/155925: coefficients of x, x^3, x^5, ...
    const SERIES: [f32; 6] = [1.0, -0.333_333_34, 0.133_333_34, -0.053_968_254, 0.021_869_488, -0.008_863_236];
    if x.abs() < 0.3 {
        return x * polynomial(x * x, &SERIES);
    }
    let small = exp(-2.0 * x.abs());
    (1.0 - small) / (1.0 + small) * x.signum()
}
