//! Edits that set or add to single elements.

use super::BlockError;
use crate::element::{Storage, BLOCK};
use crate::gguf::TensorType;

/// How a value changes its element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseOp {
    /// The value replaces the element.
    Set,
    /// The value is added to the element.
    Add,
}

/// Applies values to the elements with these indices (in the tensor, strictly increasing), all of which lie in
/// `blocks`, the first of which is number `first_block` of the tensor. A block is decoded and encoded once.
///
/// # Errors
/// `Unsupported` for a tensor type that is not F32 F16 BF16 Q8_0, `Mismatch` unless the blocks are whole and there are as
/// many values as indices, `OutOfBounds` for an index not in `blocks` or out of order, `NotFinite` if an element, or the
/// scale of its block, would not be finite.
pub fn apply(
    op: SparseOp,
    tensor_type: TensorType,
    first_block: u64,
    blocks: &mut [u8],
    indices: &[u64],
    values: &[f32],
) -> Result<(), BlockError> {
    let storage = Storage::of(tensor_type).ok_or(BlockError::Unsupported)?;
    if !blocks.len().is_multiple_of(storage.block_bytes()) || indices.len() != values.len() {
        return Err(BlockError::Mismatch);
    }
    if indices.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(BlockError::OutOfBounds);
    }
    // One arm for each type, so that the code for it is compiled separately.
    match storage {
        Storage::F32 => each_block(op, Storage::F32, first_block, blocks, indices, values),
        Storage::F16 => each_block(op, Storage::F16, first_block, blocks, indices, values),
        Storage::BF16 => each_block(op, Storage::BF16, first_block, blocks, indices, values),
        Storage::Q8_0 => each_block(op, Storage::Q8_0, first_block, blocks, indices, values),
    }
}

#[inline(always)]
fn each_block(
    op: SparseOp,
    storage: Storage,
    first_block: u64,
    blocks: &mut [u8],
    indices: &[u64],
    values: &[f32],
) -> Result<(), BlockError> {
    let elements = storage.block_elements() as u64;
    let mut decoded = [0.0; BLOCK];
    let decoded = &mut decoded[..elements as usize];
    let mut pairs = indices.iter().zip(values).peekable();
    while let Some((first, _)) = pairs.peek() {
        let number = **first / elements;
        let block = number
            .checked_sub(first_block)
            .and_then(|offset| usize::try_from(offset).ok()?.checked_mul(storage.block_bytes()))
            .and_then(|start| blocks.get_mut(start..)?.get_mut(..storage.block_bytes()))
            .ok_or(BlockError::OutOfBounds)?;
        storage.dequantize(block, decoded);
        while let Some((index, value)) = pairs.next_if(|(index, _)| **index / elements == number) {
            let x = &mut decoded[(index % elements) as usize];
            *x = match op {
                SparseOp::Set => *value,
                SparseOp::Add => *x + *value,
            };
        }
        storage.quantize(decoded, block)?;
    }
    Ok(())
}
