//! The fused multiply-add, by the CPU's instruction or emulated, with the same result.

/// How `a * b + c` is computed with one rounding.
pub trait Arithmetic {
    /// `a * b + c`, rounded once.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// By the instruction; only for code compiled for a CPU that has it.
pub struct Fused;

impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Emulated, for any CPU.
pub struct Emulated;

/// What every CPU of the target can execute: aarch64 always has the instruction, x86-64 not.
#[cfg(target_arch = "aarch64")]
pub type Baseline = Fused;
/// What every CPU of the target can execute: aarch64 always has the instruction, x86-64 not.
#[cfg(not(target_arch = "aarch64"))]
pub type Baseline = Emulated;

impl Arithmetic for Emulated {
    /// The product of two f32 is exact in f64. The sum is rounded to odd (Boldo and Melquiond, "Emulation of FMA and
    /// correctly rounded sums", 2008), so that rounding it again to f32 equals one rounding.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let of_c = sum - product;
        let error = (product - (sum - of_c)) + (c - of_c);
        let bits = sum.to_bits();
        let towards_error = if (error > 0.0) == (sum > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
        // False for NaN, which is the error of an infinite sum.
        let inexact = error.abs() > 0.0;
        f64::from_bits(if inexact && bits & 1 == 0 { towards_error } else { bits }) as f32
    }
}
