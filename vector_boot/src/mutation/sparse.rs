//! Edits of single elements.

use super::Refused;
use crate::element::{Storage, BLOCK};
use crate::gguf::TensorType;

/// What a value does to its element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The value replaces the element.
    Set,
    /// The value is added to the element.
    Add,
}

/// Applies values to the elements with these indices (in the tensor, strictly increasing), all of which lie in
/// `blocks`, the first of which is number `first_block` of the tensor. A block is decoded and encoded once.
///
/// # Errors
/// `Unsupported` for a tensor type that is not F32 F16 BF16 Q8_0, `Shape` unless the blocks are whole and there are as
/// many values as indices, `Outside` for an index not in `blocks` or out of order, `NotFinite` if an element, or the
/// scale of its block, would not be finite.
pub fn apply(
    op: Op,
    tensor_type: TensorType,
    first_block: u64,
    blocks: &mut [u8],
    indices: &[u64],
    values: &[f32],
) -> Result<(), Refused> {
    let storage = Storage::of(tensor_type).ok_or(Refused::Unsupported)?;
    if !blocks.len().is_multiple_of(storage.block_bytes()) || indices.len() != values.len() {
        return Err(Refused::Shape);
    }
    if indices.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Refused::Outside);
    }
    // One arm for each, so that the compiler knows the storage inside.
    match storage {
        Storage::F32 => each_block(op, Storage::F32, first_block, blocks, indices, values),
        Storage::F16 => each_block(op, Storage::F16, first_block, blocks, indices, values),
        Storage::BF16 => each_block(op, Storage::BF16, first_block, blocks, indices, values),
        Storage::Q8_0 => each_block(op, Storage::Q8_0, first_block, blocks, indices, values),
    }
}

#[inline(always)]
fn each_block(
    op: Op,
    storage: Storage,
    first_block: u64,
    blocks: &mut [u8],
    indices: &[u64],
    values: &[f32],
) -> Result<(), Refused> {
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
            .ok_or(Refused::Outside)?;
        storage.dequantize(block, decoded);
        while let Some((index, value)) = pairs.next_if(|(index, _)| **index / elements == number) {
            let x = &mut decoded[(index % elements) as usize];
            *x = match op {
                Op::Set => *value,
                Op::Add => *x + *value,
            };
        }
        storage.quantize(decoded, block)?;
    }
    Ok(())
}
