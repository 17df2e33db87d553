//! The fused multiply-add, in hardware or by hand, with one result.

/// How `a * b + c` is computed with one rounding.
pub trait Arithmetic {
    /// `a * b + c`, rounded once.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// The instruction; only for code compiled for a CPU that has it.
pub struct Fused;

impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// For any CPU.
pub struct Emulated;

impl Arithmetic for Emulated {
    /// The product of two f32 is exact in f64. The sum is rounded to odd (Boldo and Melquiond, "Emulation of FMA and
    /// correctly rounded sums", 2008), so that rounding it again to f32 gives what one rounding would have given.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let of_c = sum - product;
        let error = (product - (sum - of_c)) + (c - of_c);
        let bits = sum.to_bits();
        let towards_error = if (error > 0.0) == (sum > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
        // Not true of a NaN, which is what an infinite sum leaves as its error.
        let inexact = error.abs() > 0.0;
        f64::from_bits(if inexact && bits & 1 == 0 { towards_error } else { bits }) as f32
    }
}
