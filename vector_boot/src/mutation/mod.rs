//! What a mutation does to the numbers of a tensor.
//!
//! Each edit transforms whole blocks in place, and every number depends on its place in the tensor alone: applied to
//! a tensor in one go or chunk by chunk, the bytes are the same. Arithmetic is f32, multiply and add rounded
//! separately, so that every CPU, and the Python twin, agree to the bit.
//! On an error the blocks hold rubbish; the caller works on a copy.

pub mod apply;
pub mod finite;
pub mod glob;
pub mod low_rank;
pub mod noise;
pub mod plan;
pub mod request;
pub mod seeded;
pub mod sparse;

use crate::element::{NotFiniteError, Quantized, Storage};
use crate::gguf::TensorType;

/// Why an edit cannot be applied; one code of the protocol each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 1003: an index lies outside the blocks.
    Outside,
    /// 1004: lengths that do not go together.
    Shape,
    /// 1005: a value would not be finite.
    NotFinite,
    /// 1019: the edit does not support the tensor type.
    Unsupported,
}

impl From<NotFiniteError> for Refused {
    fn from(_: NotFiniteError) -> Self {
        Refused::NotFinite
    }
}

/// The kinds of edits, a seeded one by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes as stored.
    Dense,
    /// Single elements.
    Sparse,
    /// A product of two thin matrices is added.
    LowRank,
    /// Seeded noise.
    Seeded(seeded::Form),
    /// A pixel program.
    Program,
}

/// Whether a kind of edit supports a tensor type.
pub fn supports(kind: Kind, tensor_type: TensorType) -> bool {
    match kind {
        Kind::Dense => true,
        Kind::Sparse | Kind::LowRank | Kind::Seeded(seeded::Form::Normal) => Storage::of(tensor_type).is_some(),
        Kind::Seeded(seeded::Form::Step | seeded::Form::Scale) => Quantized::of(tensor_type).is_some(),
        Kind::Program => tensor_type == TensorType::BYTE,
    }
}

#[cfg(test)]
mod tests;
