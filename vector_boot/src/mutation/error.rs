//! Why a mutation cannot be made.

use std::fmt;

use crate::element::NotFiniteError;
use crate::protocol::ParameterError;

/// Why an edit cannot be applied to blocks of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// An index lies outside the blocks, or the indices do not increase.
    OutOfBounds,
    /// Lengths do not match.
    Mismatch,
    /// A value would not be finite.
    NotFinite,
    /// The edit does not support the type of the tensor.
    Unsupported,
}

impl From<NotFiniteError> for BlockError {
    fn from(_: NotFiniteError) -> Self {
        BlockError::NotFinite
    }
}

/// What is wrong with an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditErrorKind {
    /// A member is missing, unknown or of the wrong type, or indices do not increase.
    Malformed,
    /// No tensor has this name, or matches this pattern.
    UnknownTensor,
    /// The tensor is protected.
    ProtectedTensor,
    /// The edit leaves the tensor, or its part of the blob leaves the blob or overlaps another part.
    OutOfBounds,
    /// Type, shape or length does not fit.
    Mismatch,
    /// The edit does not support the type of the tensor.
    Unsupported,
}

/// Why an edit is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditError {
    /// What is wrong with it.
    pub kind: EditErrorKind,
    /// One sentence for a person.
    pub text: String,
}

impl EditError {
    /// An edit that is refused for this reason.
    pub fn new(kind: EditErrorKind, text: impl Into<String>) -> Self {
        EditError { kind, text: text.into() }
    }

    /// The same error; its sentence names the edit by its place in the list.
    #[must_use]
    pub fn of_edit(self, number: usize) -> Self {
        EditError { text: format!("edit {number}: {}", self.text), ..self }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ParameterError> for EditError {
    fn from(error: ParameterError) -> Self {
        EditError::new(EditErrorKind::Malformed, error.0)
    }
}

/// Why a plan cannot be applied: a value of a tensor would not be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyError {
    /// Index of the tensor in the store.
    pub tensor: usize,
}
