//! Values of the stack: matrices of f32.

use std::fmt;

/// Rows and columns of a value; a vector has one row, a scalar one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row, which are stored one after another.
    pub columns: usize,
}

impl Shape {
    /// The shape of one row.
    pub const fn vector(columns: usize) -> Self {
        Shape { rows: 1, columns }
    }

    /// Whether it is a single element.
    pub fn is_scalar(self) -> bool {
        self.rows == 1 && self.columns == 1
    }

    /// Number of elements; `None` if it overflows.
    pub fn elements(self) -> Option<usize> {
        self.rows.checked_mul(self.columns)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.columns)
    }
}

/// A matrix, row after row, of at least one element. Only [`super::memory::StackMemory`] creates values.
#[derive(Debug)]
pub struct StackValue {
    pub(super) shape: Shape,
    pub(super) data: Vec<f32>,
}

impl StackValue {
    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.shape.columns)
    }

    /// The rows, mutable.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.shape.columns)
    }
}
