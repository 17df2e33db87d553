//! The table of kernels that each variant fills, and what the kernels are given.

use crate::gguf::TensorType;
use crate::neural::lanes::Lanes;

/// Rows of weights that a product takes at once.
pub const ROWS: usize = 12;

/// The weights of one product: [`ROWS`] rows of `depth` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The rows.
    pub a: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// Values in a row.
    pub depth: usize,
    /// Stored weights that are needed soon: a hint to load them into the cache during this product.
    pub next: &'a [u8],
}

#[cfg(target_arch = "x86_64")]
impl Product<'_> {
    /// Whether `a` holds all rows, `x` all inputs and `c` all outputs.
    pub(super) fn fits(&self, x: &[Lanes], c: &[Lanes]) -> bool {
        let reach = self.stride.checked_mul(ROWS - 1).and_then(|start| start.checked_add(self.depth));
        reach.is_some_and(|reach| reach <= self.a.len()) && x.len() >= self.depth && c.len() >= ROWS
    }
}

/// Two tiles, to write.
type TwoTiles<'a> = [&'a mut [Lanes]; 2];

/// Factors and addends of a layer norm, and what is added to the variance.
#[derive(Clone, Copy)]
pub struct NormValues<'a> {
    /// One for each feature.
    pub weight: &'a [f32],
    /// One for each feature.
    pub bias: &'a [f32],
    /// Keeps the root above zero.
    pub epsilon: f32,
}

/// The kernels of one variant. Each panics if its slices are too short.
pub struct Kernels {
    /// Adds rows times sixteen tokens: c[r] += a[r] · x, for [`ROWS`] outputs.
    pub multiply: fn(Product<'_>, &[Lanes], &mut [Lanes]),
    /// The same for two tiles of tokens.
    pub multiply_two: fn(Product<'_>, [&[Lanes]; 2], TwoTiles<'_>),
    /// Decodes stored weights, as [`crate::element::dequantize`] does.
    pub decode: fn(TensorType, &[u8], &mut [f32]),
    /// GELU of every element.
    pub gelu: fn(&mut [Lanes]),
    /// exp(scale (score - greatest)) of the scores, and one over its sum.
    pub softmax: fn(&mut [Lanes], f32) -> Lanes,
    /// Layer norm of the sum of the two, left in the first.
    pub layer_norm: fn(&mut [Lanes], &[Lanes], NormValues<'_>),
}
