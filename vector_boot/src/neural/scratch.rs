//! The memory that one thread works in during a pass. It only grows, and is reused by the next pass.

use super::kernels::ROWS;
use super::lanes::Tiles;

/// Memory of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub panel: WeightPanel,
    pub head: HeadBuffers,
    /// Decoded rows of embedding tables and norms.
    pub rows: Vec<f32>,
}

/// Decoded weights of a linear layer: a block of rows by a range of columns.
#[derive(Default)]
pub(super) struct WeightPanel {
    pub values: Vec<f32>,
    /// One value for each row.
    pub bias: [f32; ROWS],
}

/// Queries, keys and values of one attention head for one text, and what is computed from them.
#[derive(Default)]
pub(super) struct HeadBuffers {
    /// Features by queries, in tiles that start with the text.
    pub queries: Tiles,
    /// A row for each key, and zero rows up to a whole block of rows.
    pub keys: Vec<f32>,
    /// A row for each feature, and zero rows up to a whole block of rows; a column for each key.
    pub values: Vec<f32>,
    /// Keys by queries, for two tiles of queries.
    pub scores: Tiles,
    /// Features by queries, for two tiles of queries.
    pub mixed: Tiles,
}
