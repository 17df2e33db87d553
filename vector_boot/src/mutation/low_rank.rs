//! Edits that add the product of two matrices of low rank: w[j, i] += scale * Σ_k A[j, k] * B[i, k].

use super::BlockError;
use crate::element::Storage;
use crate::gguf::TensorType;

/// Columns whose sums stay in registers.
const PANEL: usize = 32;
/// Columns processed at a time: their part of B stays in the first-level cache for all rows.
const STRIP: usize = 8 * PANEL;

/// The matrix B, laid out for the product: panels of 32 columns of the tensor, in each the ranks one after another.
pub struct Factor {
    panels: Vec<[f32; PANEL]>,
    columns: usize,
    rank: usize,
}

impl Factor {
    /// Lays out B, which is given as on the wire: `columns` (`ne0` of the tensor) rows of `rank` numbers.
    ///
    /// # Errors
    /// `Mismatch` unless `b` has columns * rank numbers, at least one.
    pub fn new(b: &[f32], columns: usize, rank: usize) -> Result<Self, BlockError> {
        if b.is_empty() || columns.checked_mul(rank) != Some(b.len()) {
            return Err(BlockError::Mismatch);
        }
        let mut panels = vec![[0.0; PANEL]; columns.div_ceil(PANEL) * rank];
        for (i, row) in b.chunks_exact(rank).enumerate() {
            for (k, value) in row.iter().enumerate() {
                panels[i / PANEL * rank + k][i % PANEL] = *value;
            }
        }
        Ok(Factor { panels, columns, rank })
    }
}

/// Applies the edit to whole rows. `a` holds the rows of A for these rows of the tensor.
///
/// # Errors
/// `Unsupported` for a tensor type that is not F32 F16 BF16 Q8_0, `Mismatch` unless `rows` are whole rows of the factor's
/// columns and `a` has one row for each, `NotFinite` if an element, or the scale of a block, would not be finite.
pub fn apply(
    factor: &Factor,
    tensor_type: TensorType,
    scale: f32,
    a: &[f32],
    rows: &mut [u8],
) -> Result<(), BlockError> {
    let storage = Storage::of(tensor_type).ok_or(BlockError::Unsupported)?;
    if !factor.columns.is_multiple_of(storage.block_elements()) {
        return Err(BlockError::Mismatch);
    }
    let row_bytes = factor.columns / storage.block_elements() * storage.block_bytes();
    let whole =
        rows.len().is_multiple_of(row_bytes) && Some(a.len()) == (rows.len() / row_bytes).checked_mul(factor.rank);
    if !whole {
        return Err(BlockError::Mismatch);
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the features that the function is compiled for.
        #[allow(unsafe_code)]
        return unsafe { avx2(factor, storage, scale, a, rows) };
    }
    portable(factor, storage, scale, a, rows)
}

/// The same code compiled for wider vectors; without FMA, which would round differently.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(factor: &Factor, storage: Storage, scale: f32, a: &[f32], rows: &mut [u8]) -> Result<(), BlockError> {
    portable(factor, storage, scale, a, rows)
}

#[inline(always)]
pub(super) fn portable(
    factor: &Factor,
    storage: Storage,
    scale: f32,
    a: &[f32],
    rows: &mut [u8],
) -> Result<(), BlockError> {
    let bytes_of = |columns: usize| columns / storage.block_elements() * storage.block_bytes();
    let mut values = [0.0; STRIP];
    for (number, panels) in factor.panels.chunks(STRIP / PANEL * factor.rank).enumerate() {
        let first = number * STRIP;
        let last = factor.columns.min(first + STRIP);
        let values = &mut values[..last - first];
        for (a, row) in a.chunks_exact(factor.rank).zip(rows.chunks_exact_mut(bytes_of(factor.columns))) {
            let blocks = &mut row[bytes_of(first)..bytes_of(last)];
            storage.dequantize(blocks, values);
            for (values, panel) in values.chunks_mut(PANEL).zip(panels.chunks_exact(factor.rank)) {
                let sums = sums(a, panel);
                for (x, sum) in values.iter_mut().zip(sums) {
                    *x += scale * sum;
                }
            }
            storage.quantize(values, blocks)?;
        }
    }
    Ok(())
}

/// Σ_k a[k] * panel[k], k ascending from 0.0, for each column of a panel.
#[inline(always)]
fn sums(a: &[f32], panel: &[[f32; PANEL]]) -> [f32; PANEL] {
    let mut sums = [0.0; PANEL];
    for (a, b) in a.iter().zip(panel) {
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum += a * b;
        }
    }
    sums
}
