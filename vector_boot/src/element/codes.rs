//! The integer codes of the block types that hold 32 of them.

use super::float::f16_to_f32;
use super::q8_0;
use crate::gguf::TensorType;

/// Elements in a block of these types.
pub const BLOCK: usize = 32;

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
            Quantized::Q8_0 => q8_0::BYTES,
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
