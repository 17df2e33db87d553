//! Elements of tensors: between the bytes of a storage type and f32.
//!
//! This is the scalar reference: faster decoders must give the same bits.
//! The formulas of the block types are those of ggml (`ggml-quants.c`) and of the Python package `gguf`.

mod codes;
mod float;

pub use codes::{Quantized, BLOCK};
pub(crate) use float::{bf16_is_finite, f16_is_finite};
pub use float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

use crate::gguf::TensorType;

/// A value to be stored is infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFiniteError;

/// There is no decoder for the tensor type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedTypeError;

/// The storage types to which a computed f32 can be written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 32 signed bytes and an f16 scale.
    Q8_0,
}

impl Storage {
    /// The storage of a tensor type; `None` where computed values cannot be written back.
    pub fn of(tensor_type: TensorType) -> Option<Self> {
        Some(match tensor_type.id() {
            0 => Storage::F32,
            1 => Storage::F16,
            30 => Storage::BF16,
            8 => Storage::Q8_0,
            _ => return None,
        })
    }

    /// Elements in one block.
    pub const fn block_elements(self) -> usize {
        match self {
            Storage::Q8_0 => BLOCK,
            _ => 1,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::BF16 => 2,
            Storage::Q8_0 => Quantized::Q8_0.block_bytes(),
        }
    }

    /// Decodes whole blocks; stops at the end of the shorter slice.
    #[inline(always)]
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Storage::F32 => {
                for (bytes, x) in blocks.as_chunks::<4>().0.iter().zip(out) {
                    *x = f32::from_le_bytes(*bytes);
                }
            }
            Storage::F16 => {
                for (bytes, x) in blocks.as_chunks::<2>().0.iter().zip(out) {
                    *x = f16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            Storage::BF16 => {
                for (bytes, x) in blocks.as_chunks::<2>().0.iter().zip(out) {
                    *x = bf16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            Storage::Q8_0 => {
                for (block, x) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    codes::dequantize_q8_0(block, x);
                }
            }
        }
    }

    /// Encodes to whole blocks, rounding to nearest even; stops at the end of the shorter slice.
    ///
    /// # Errors
    /// [`NotFiniteError`] if a stored element, or the scale of a block, is not finite. The contents of `blocks` are unspecified then.
    #[inline(always)]
    pub fn quantize(self, values: &[f32], blocks: &mut [u8]) -> Result<(), NotFiniteError> {
        let mut finite = true;
        match self {
            Storage::F32 => {
                for (bytes, x) in blocks.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    finite &= x.is_finite();
                    *bytes = x.to_le_bytes();
                }
            }
            Storage::F16 => {
                for (bytes, x) in blocks.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    let half = f32_to_f16(*x);
                    finite &= f16_is_finite(half);
                    *bytes = half.to_le_bytes();
                }
            }
            Storage::BF16 => {
                for (bytes, x) in blocks.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    let half = f32_to_bf16(*x);
                    finite &= bf16_is_finite(half);
                    *bytes = half.to_le_bytes();
                }
            }
            Storage::Q8_0 => {
                for (block, x) in blocks.as_chunks_mut().0.iter_mut().zip(values.as_chunks().0) {
                    finite &= codes::quantize_q8_0(x, block);
                }
            }
        }
        finite.then_some(()).ok_or(NotFiniteError)
    }
}

/// Decodes whole blocks of a tensor; stops at the end of the shorter slice.
///
/// # Errors
/// [`UnsupportedTypeError`] for a type other than F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1; `out` is untouched then.
pub fn dequantize(tensor_type: TensorType, blocks: &[u8], out: &mut [f32]) -> Result<(), UnsupportedTypeError> {
    if let Some(storage) = Storage::of(tensor_type) {
        storage.dequantize(blocks, out);
        return Ok(());
    }
    let quantized = Quantized::of(tensor_type).ok_or(UnsupportedTypeError)?;
    for (block, x) in blocks.chunks_exact(quantized.block_bytes()).zip(out.as_chunks_mut().0) {
        quantized.dequantize(block, x);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
