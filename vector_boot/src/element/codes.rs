//! Block types that hold 32 integer codes: their layout, their codes, and Q8_0 to f32 and back.

use super::float::{f16_is_finite, f16_to_f32, f32_to_f16};
use crate::gguf::TensorType;

/// Elements in a block of these types.
pub const BLOCK: usize = 32;
/// Bytes of a Q8_0 block: an f16 scale and 32 signed bytes.
pub(super) const Q8_0_BYTES: usize = 2 + BLOCK;

/// Block types of 32 integer codes with an f16 scale in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantized {
    /// Signed bytes.
    Q8_0,
    /// 4 bits, centred on 8.
    Q4_0,
    /// 4 bits above a minimum.
    Q4_1,
    /// 5 bits, centred on 16.
    Q5_0,
    /// 5 bits above a minimum.
    Q5_1,
}

impl Quantized {
    /// The block type of a tensor type, if it is one of these.
    pub fn of(tensor_type: TensorType) -> Option<Self> {
        Some(match tensor_type.id() {
            8 => Quantized::Q8_0,
            2 => Quantized::Q4_0,
            3 => Quantized::Q4_1,
            6 => Quantized::Q5_0,
            7 => Quantized::Q5_1,
            _ => return None,
        })
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Quantized::Q8_0 => Q8_0_BYTES,
            Quantized::Q4_0 => 2 + 16,
            Quantized::Q4_1 => 4 + 16,
            Quantized::Q5_0 => 2 + 4 + 16,
            Quantized::Q5_1 => 4 + 4 + 16,
        }
    }

    /// The least and the greatest code.
    pub const fn code_range(self) -> (i8, i8) {
        match self {
            Quantized::Q8_0 => (-128, 127),
            Quantized::Q4_0 | Quantized::Q4_1 => (0, 15),
            Quantized::Q5_0 | Quantized::Q5_1 => (0, 31),
        }
    }

    /// Where the fifth bits start, for the types that have them.
    const fn fifth_bits(self) -> Option<usize> {
        match self {
            Quantized::Q5_0 => Some(2),
            Quantized::Q5_1 => Some(4),
            _ => None,
        }
    }

    /// The codes of one block, as stored.
    #[inline(always)]
    pub fn codes(self, block: &[u8]) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        if self == Quantized::Q8_0 {
            for (code, byte) in codes.iter_mut().zip(&block[2..]) {
                *code = *byte as i8;
            }
            return codes;
        }
        let (low, high) = codes.split_at_mut(BLOCK / 2);
        let nibbles = &block[self.block_bytes() - BLOCK / 2..self.block_bytes()];
        for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
            *low = (byte & 15) as i8;
            *high = (byte >> 4) as i8;
        }
        if let Some(at) = self.fifth_bits() {
            let fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            for (i, code) in codes.iter_mut().enumerate() {
                *code |= ((fifth >> i & 1) << 4) as i8;
            }
        }
        codes
    }

    /// Stores the codes of one block; each must be inside [`Quantized::code_range`].
    #[inline(always)]
    pub fn set_codes(self, block: &mut [u8], codes: &[i8; BLOCK]) {
        if self == Quantized::Q8_0 {
            for (byte, code) in block[2..].iter_mut().zip(codes) {
                *byte = *code as u8;
            }
            return;
        }
        let (low, high) = codes.split_at(BLOCK / 2);
        let nibbles = &mut block[self.block_bytes() - BLOCK / 2..self.block_bytes()];
        for ((low, high), byte) in low.iter().zip(high).zip(nibbles) {
            *byte = (low & 15) as u8 | (high << 4) as u8;
        }
        if let Some(at) = self.fifth_bits() {
            let fifth = codes.iter().enumerate().fold(0, |bits, (i, code)| bits | (*code as u32 >> 4 & 1) << i);
            block[at..at + 4].copy_from_slice(&fifth.to_le_bytes());
        }
    }

    /// Decodes one block.
    pub(super) fn dequantize(self, block: &[u8], out: &mut [f32; BLOCK]) {
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
        let d = half(0);
        let codes = self.codes(block);
        let (centre, minimum) = match self {
            Quantized::Q8_0 => (0, None),
            Quantized::Q4_0 => (8, None),
            Quantized::Q5_0 => (16, None),
            Quantized::Q4_1 | Quantized::Q5_1 => (0, Some(half(2))),
        };
        for (x, code) in out.iter_mut().zip(codes) {
            let scaled = d * f32::from(code - centre);
            // Adding a zero minimum would turn -0.0 into 0.0.
            *x = minimum.map_or(scaled, |minimum| scaled + minimum);
        }
    }
}

/// Decodes one Q8_0 block.
#[inline(always)]
pub(super) fn dequantize_q8_0(block: &[u8; Q8_0_BYTES], out: &mut [f32; BLOCK]) {
    let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
    for (x, code) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(*code as i8) * d;
    }
}

/// Encodes one Q8_0 block: d = max|x| / 127 in f32, codes from that d, d stored as f16. Returns whether all values and
/// the stored scale are finite.
#[inline(always)]
pub(super) fn quantize_q8_0(values: &[f32; BLOCK], block: &mut [u8; Q8_0_BYTES]) -> bool {
    // The bits of non-negative floats are ordered like the floats, with infinity and NaN above all.
    let largest = values.iter().fold(0, |largest, x| (x.to_bits() & 0x7FFF_FFFF).max(largest));
    let d = f32::from_bits(largest) / 127.0;
    // ggml multiplies by the rounded 1 / d instead, which gives another code near one tie in a hundred thousand.
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
    // Near 2^23 one ulp is 1: the addition rounds to nearest even, and the low bits are the integer.
    const ROUNDER: f32 = 8_388_608.0;
    let magnitude = x.abs();
    let shifted = magnitude + ROUNDER;
    let even = (shifted.to_bits() & 0x7F_FFFF) as i32;
    let tie_rounded_down = magnitude - (shifted - ROUNDER) == 0.5;
    let nearest = even + i32::from(tie_rounded_down);
    let sign = x.to_bits() as i32 >> 31;
    (nearest ^ sign) - sign
}
