//! The residual stream: its beginning, the embeddings of the tokens, and the norm after each addition to it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::kernels::NormValues;
use super::lanes::{BlockSize, Lanes, Tiles, LANES};
use super::pass::{check_cancelled, Batch, PassThreads, StepError};
use super::weights::{NormWeights, Weights};

/// output = token + type + position, summed in this order; lanes without a token are zero.
pub(super) fn embed(threads: &PassThreads<'_>, weights: &Weights<'_>, batch: &Batch, output: &mut Tiles) {
    let width = output.features();
    threads.for_each_block(output, BlockSize { features: width, tiles: 1 }, &|scratch, mut block| {
        scratch.rows.resize(3 * width, 0.0);
        let (token_row, rest) = scratch.rows.split_at_mut(width);
        let (type_row, position_row) = rest.split_at_mut(width);
        match &weights.token_types {
            Some(types) => types.decode(threads.kernels, 0, 0, type_row),
            None => type_row.fill(0.0),
        }
        let first = block.first_tile * LANES;
        let tile = block.tile(0);
        tile.fill(Lanes::ZERO);
        for (lane, token) in batch.tokens[first..].iter().take(LANES).enumerate() {
            weights.token_embedding.decode(threads.kernels, token.id as usize, 0, token_row);
            weights.position_embedding.decode(threads.kernels, token.position, 0, position_row);
            for (d, value) in tile.iter_mut().enumerate() {
                value.0[lane] = (token_row[d] + type_row[d]) + position_row[d];
            }
        }
    });
}

/// stream = norm(stream + addend); an error if a token's vector is not finite then.
pub(super) fn add_and_norm(
    threads: &PassThreads<'_>,
    norm: &NormWeights<'_>,
    epsilon: f32,
    addend: &Tiles,
    stream: &mut Tiles,
    batch: &Batch,
) -> Result<(), StepError> {
    check_cancelled(threads)?;
    let width = stream.features();
    let finite = AtomicBool::new(true);
    threads.for_each_block(stream, BlockSize { features: width, tiles: 1 }, &|scratch, mut block| {
        scratch.rows.resize(3 * width, 0.0);
        let (weight, rest) = scratch.rows.split_at_mut(width);
        let (bias, _) = rest.split_at_mut(width);
        norm.weight.decode(threads.kernels, 0, 0, weight);
        norm.bias.decode(threads.kernels, 0, 0, bias);
        let at = block.first_tile;
        let tile = block.tile(0);
        (threads.kernels.layer_norm)(tile, addend.tile(at), NormValues { weight, bias, epsilon });
        if !is_finite(tile, batch.tokens.len() - at * LANES) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    check_cancelled(threads)?;
    match finite.into_inner() {
        true => Ok(()),
        false => Err(StepError::NotFinite),
    }
}

/// Whether the first `tokens` lanes hold finite values only.
fn is_finite(tile: &[Lanes], tokens: usize) -> bool {
    // x * 0 is zero exactly when x is finite, and a NaN stays in a sum.
    let mut zeros = Lanes::ZERO;
    for value in tile {
        for (zero, x) in zeros.0.iter_mut().zip(value.0) {
            *zero += x * 0.0;
        }
    }
    zeros.0.iter().take(tokens).all(|zero| *zero == 0.0)
}
