//! Functions of one number. They never use the C library, so that the results are the same on every machine.

pub use crate::neural::kernels::{exp, gelu};

/// Evaluates a polynomial, the constant coefficient first, by Horner's rule.
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// max(x, 0); NaN for NaN.
pub fn relu(x: f32) -> f32 {
    if x < 0.0 {
        0.0
    } else {
        x
    }
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
