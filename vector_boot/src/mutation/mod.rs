//! Edits: how a mutation changes the elements of tensors.
//!
//! Each edit transforms whole blocks in place. The result for an element depends only on the edit, the old block and the
//! position of the element in the tensor, so an edit applied chunk by chunk gives the same bytes as one applied to the
//! whole tensor. Arithmetic is f32 with multiply and add rounded separately, so that every CPU and the implementation
//! in Python give the same bits. After an error the contents of the blocks are undefined: the caller works on a copy.

pub mod apply;
mod error;
pub mod finite;
pub mod glob;
pub mod low_rank;
pub mod noise;
pub mod plan;
pub mod request;
pub mod seeded;
pub mod sparse;

pub use error::{ApplyError, BlockError, EditError, EditErrorKind};

use crate::element::{Quantized, Storage};
use crate::gguf::TensorType;

/// The kinds of edits; a seeded one with its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditKind {
    /// Replaces bytes.
    Dense,
    /// Sets or adds to single elements.
    Sparse,
    /// Adds the product of two matrices of low rank.
    LowRank,
    /// Adds noise that a seed determines.
    Seeded(seeded::Form),
    /// Writes a pixel program into a slot.
    Program,
}

/// Whether a kind of edit supports a tensor type.
pub fn supports(kind: EditKind, tensor_type: TensorType) -> bool {
    match kind {
        EditKind::Dense => true,
        EditKind::Sparse | EditKind::LowRank | EditKind::Seeded(seeded::Form::Normal) => {
            Storage::of(tensor_type).is_some()
        }
        EditKind::Seeded(seeded::Form::Step | seeded::Form::Scale) => Quantized::of(tensor_type).is_some(),
        EditKind::Program => tensor_type == TensorType::BYTE,
    }
}

#[cfg(test)]
mod tests;
