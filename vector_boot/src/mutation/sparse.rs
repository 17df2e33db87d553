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
    let (bytes, elements) = (storage.block_bytes(), storage.block_elements());
    if blocks.len() % bytes != 0 || indices.len() != values.len() {
        return Err(Refused::Shape);
    }
    if indices.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Refused::Outside);
    }
    let block_of = |index: u64| index / elements as u64;
    let mut decoded = [0.0; BLOCK];
    let decoded = &mut decoded[..elements];
    let mut at = 0;
    while let Some(first) = indices.get(at) {
        let number = block_of(*first);
        let block = number
            .checked_sub(first_block)
            .and_then(|offset| usize::try_from(offset).ok()?.checked_mul(bytes))
            .and_then(|start| blocks.get_mut(start..)?.get_mut(..bytes))
            .ok_or(Refused::Outside)?;
        storage.dequantize(block, decoded);
        while let Some(index) = indices.get(at).filter(|index| block_of(**index) == number) {
            let x = &mut decoded[(index % elements as u64) as usize];
            *x = match op {
                Op::Set => values[at],
                Op::Add => *x + values[at],
            };
            at += 1;
        }
        storage.quantize(decoded, block)?;
    }
    Ok(())
}
