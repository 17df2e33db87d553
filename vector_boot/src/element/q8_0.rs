//! Q8_0: an f16 scale and 32 signed bytes.

use super::codes::BLOCK;
use super::float::{f16_is_finite, f16_to_f32, f32_to_f16};

/// Bytes of a block.
pub(super) const BYTES: usize = 2 + BLOCK;

#[inline(always)]
pub(super) fn dequantize(block: &[u8; BYTES], out: &mut [f32; BLOCK]) {
    let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
    for (x, code) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(*code as i8) * d;
    }
}

/// d = max|x| / 127 in f32, codes from that d, d stored as f16. Whether everything is finite.
#[inline(always)]
pub(super) fn quantize(values: &[f32; BLOCK], block: &mut [u8; BYTES]) -> bool {
    // The bits of non-negative floats are ordered like the floats, with infinity and NaN above all.
    let largest = values.iter().fold(0, |largest, x| (x.to_bits() & 0x7FFF_FFFF).max(largest));
    let d = f32::from_bits(largest) / 127.0;
    // ggml multiplies by the rounded 1 / d instead, which gives another code beside one tie in a hundred thousand.
    let divisor = if d == 0.0 { f32::INFINITY } else { d };
    for (code, x) in block[2..].iter_mut().zip(values) {
        *code = round_half_away(x / divisor) as u8;
    }
    let stored = f32_to_f16(d);
    block[..2].copy_from_slice(&stored.to_le_bytes());
    f16_is_finite(stored)
}

/// The integer nearest to a number of magnitude below 2^22, ties away from zero.
#[inline(always)]
fn round_half_away(x: f32) -> i32 {
    // Beside 2^23 one ulp is 1: the addition rounds to nearest even, and the low bits are the integer.
    const BESIDE: f32 = 8_388_608.0;
    let magnitude = x.abs();
    let shifted = magnitude + BESIDE;
    let even = (shifted.to_bits() & 0x7F_FFFF) as i32;
    let tie_rounded_down = magnitude - (shifted - BESIDE) == 0.5;
    let nearest = even + i32::from(tie_rounded_down);
    let sign = x.to_bits() as i32 >> 31;
    (nearest ^ sign) - sign
}
