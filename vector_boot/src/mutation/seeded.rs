//! Edits with noise that the machine generates from a seed.

use super::{noise, BlockError};
use crate::element::{f16_is_finite, f16_to_f32, f32_to_f16, Quantized, Storage, BLOCK};
use crate::gguf::TensorType;

/// Elements (of a float type) or blocks processed at a time.
const STRIP: usize = 256;

/// What the noise does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// x += scale * z.
    Normal,
    /// The code of the element moves by one, up or down.
    Step,
    /// The scale of the block is multiplied by 1 + scale * z.
    Scale,
}

/// A seeded edit of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seeded {
    /// Key of the noise, see [`noise::key`].
    pub key: [u64; 2],
    /// An element (`Scale`: a block) is selected where the low half of its word is below this; see [`threshold`].
    pub threshold: u64,
    /// Factor of z; `Step` does not use it.
    pub scale: f32,
    /// What the noise does.
    pub form: Form,
}

/// floor(density * 2^32), for a density from 0 to 1.
pub fn threshold(density: f64) -> u64 {
    (density * 4_294_967_296.0) as u64
}

impl Seeded {
    #[inline(always)]
    fn selects(&self, word: u64) -> bool {
        word & 0xFFFF_FFFF < self.threshold
    }
}

/// scale * z, where z = (popcount of the 32 high bits - 16) / 4.
#[inline(always)]
fn delta(scale: f32, word: u64) -> f32 {
    let heads = (word >> 32).count_ones() as i32;
    scale * ((heads - 16) as f32 * 0.25)
}

/// Applies the edit to whole blocks, the first of which is number `first_block` of the tensor.
///
/// # Errors
/// `Unsupported` for a tensor type the form does not support, `Mismatch` unless the blocks are whole, `NotFinite` if a
/// selected element, or the scale of a block with one, would not be finite.
pub fn apply(edit: &Seeded, tensor_type: TensorType, first_block: u64, blocks: &mut [u8]) -> Result<(), BlockError> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
        // SAFETY: the CPU has the features that the function is compiled for.
        #[allow(unsafe_code)]
        return unsafe { avx2(edit, tensor_type, first_block, blocks) };
    }
    portable(edit, tensor_type, first_block, blocks)
}

/// The same code compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn avx2(edit: &Seeded, tensor_type: TensorType, first_block: u64, blocks: &mut [u8]) -> Result<(), BlockError> {
    portable(edit, tensor_type, first_block, blocks)
}

#[inline(always)]
pub(super) fn portable(
    edit: &Seeded,
    tensor_type: TensorType,
    first_block: u64,
    blocks: &mut [u8],
) -> Result<(), BlockError> {
    if !(blocks.len() as u64).is_multiple_of(tensor_type.block_bytes()) {
        return Err(BlockError::Mismatch);
    }
    let first_element = first_block.wrapping_mul(tensor_type.block_elements());
    if edit.form == Form::Normal {
        return match Storage::of(tensor_type).ok_or(BlockError::Unsupported)? {
            Storage::Q8_0 => normal_q8_0(edit, first_element, blocks),
            storage => normal_float(edit, storage, first_element, blocks),
        };
    }
    let quantized = Quantized::of(tensor_type).ok_or(BlockError::Unsupported)?;
    match edit.form {
        Form::Scale => scale(edit, quantized, first_block, blocks),
        _ => {
            step(edit, quantized, first_element, blocks);
            Ok(())
        }
    }
}

#[inline(always)]
fn normal_float(edit: &Seeded, storage: Storage, mut element: u64, elements: &mut [u8]) -> Result<(), BlockError> {
    let bytes = storage.block_bytes();
    let mut words = [0; STRIP];
    let mut values = [0.0; STRIP];
    let mut changed = [0; STRIP * 4];
    for strip in elements.chunks_mut(STRIP * bytes) {
        let count = strip.len() / bytes;
        let (words, values, changed) = (&mut words[..count], &mut values[..count], &mut changed[..strip.len()]);
        noise::fill(edit.key, element, words);
        element = element.wrapping_add(STRIP as u64);
        storage.dequantize(strip, values);
        for (x, word) in values.iter_mut().zip(&*words) {
            let sum = *x + delta(edit.scale, *word);
            // An element that is not selected is not stored: any finite value will do.
            *x = if edit.selects(*word) { sum } else { 0.0 };
        }
        storage.quantize(values, changed)?;
        match storage {
            Storage::F32 => blend::<4>(edit, words, changed, strip),
            _ => blend::<2>(edit, words, changed, strip),
        }
    }
    Ok(())
}

/// Stores the changed elements that are selected; the others keep their bits.
#[inline(always)]
fn blend<const N: usize>(edit: &Seeded, words: &[u64], changed: &[u8], elements: &mut [u8]) {
    let elements = elements.as_chunks_mut::<N>().0;
    for ((element, changed), word) in elements.iter_mut().zip(changed.as_chunks::<N>().0).zip(words) {
        *element = if edit.selects(*word) { *changed } else { *element };
    }
}

#[inline(always)]
fn normal_q8_0(edit: &Seeded, mut element: u64, blocks: &mut [u8]) -> Result<(), BlockError> {
    let mut words = [0; BLOCK];
    let mut values = [0.0; BLOCK];
    for block in blocks.chunks_exact_mut(Storage::Q8_0.block_bytes()) {
        noise::fill(edit.key, element, &mut words);
        element = element.wrapping_add(BLOCK as u64);
        if !words.iter().fold(false, |any, word| any | edit.selects(*word)) {
            continue;
        }
        Storage::Q8_0.dequantize(block, &mut values);
        for (x, word) in values.iter_mut().zip(words) {
            let sum = *x + delta(edit.scale, word);
            *x = if edit.selects(word) { sum } else { *x };
        }
        Storage::Q8_0.quantize(&values, block)?;
    }
    Ok(())
}

#[inline(always)]
fn step(edit: &Seeded, quantized: Quantized, mut element: u64, blocks: &mut [u8]) {
    let (least, greatest) = quantized.code_range();
    let mut words = [0; BLOCK];
    for block in blocks.chunks_exact_mut(quantized.block_bytes()) {
        noise::fill(edit.key, element, &mut words);
        element = element.wrapping_add(BLOCK as u64);
        let mut codes = quantized.codes(block);
        for (code, word) in codes.iter_mut().zip(words) {
            let up = (word >> 63) as i8;
            let step = if edit.selects(word) { 2 * up - 1 } else { 0 };
            *code = code.saturating_add(step).clamp(least, greatest);
        }
        quantized.set_codes(block, &codes);
    }
}

#[inline(always)]
fn scale(edit: &Seeded, quantized: Quantized, mut number: u64, blocks: &mut [u8]) -> Result<(), BlockError> {
    let mut words = [0; STRIP];
    for strip in blocks.chunks_mut(STRIP * quantized.block_bytes()) {
        noise::fill(edit.key, number, &mut words);
        number = number.wrapping_add(STRIP as u64);
        for (block, word) in strip.chunks_exact_mut(quantized.block_bytes()).zip(words) {
            if edit.selects(word) {
                let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                let grown = f32_to_f16(d * (1.0 + delta(edit.scale, word)));
                if !f16_is_finite(grown) {
                    return Err(BlockError::NotFinite);
                }
                block[..2].copy_from_slice(&grown.to_le_bytes());
            }
        }
    }
    Ok(())
}
