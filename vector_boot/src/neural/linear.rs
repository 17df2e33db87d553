//! A linear layer over all tokens of a batch, with its rows divided among the threads.

use std::ops::Range;

use super::kernels::{Kernels, Product, ROWS};
use super::lanes::{BlockSize, Lanes, TileBlock, Tiles, LANES};
use super::pass::PassThreads;
use super::scratch::WeightPanel;
use super::weights::{LinearWeights, COLUMN_STEP};

/// Rows of weights that one thread takes at a time.
const BLOCK_ROWS: usize = 2 * ROWS;
/// Tiles that they are multiplied by: few enough that a range of their columns stays in the second-level cache.
const BLOCK_TILES: usize = 16;
/// From one decoded row to the next. No power of two: twelve rows would share a few sets of the cache.
const STRIDE: usize = COLUMN_STEP + 16;

/// The function that is applied to the product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    Gelu,
}

/// output = activation(weight · input + bias), the rows of several layers one after the other.
pub(super) fn linear(
    threads: &PassThreads<'_>,
    layers: &[LinearWeights<'_>],
    input: &Tiles,
    output: &mut Tiles,
    activation: Activation,
) {
    let rows = layers.iter().map(|layer| layer.weight.rows()).sum();
    output.reshape(input.tiles(), rows);
    let size = BlockSize { features: BLOCK_ROWS, tiles: BLOCK_TILES };
    threads.for_each_block(output, size, &|scratch, mut block| {
        let panel = &mut scratch.panel;
        panel.values.resize(ROWS * STRIDE, 0.0);
        for first in (0..block.features).step_by(ROWS) {
            let count = ROWS.min(block.features - first);
            let last = first + ROWS >= block.features;
            // An estimate: the threads take blocks in turn.
            let next = if last {
                block.first_feature + BLOCK_ROWS * threads.pool.threads()
            } else {
                first + ROWS + block.first_feature
            };
            let next = stored(layers, next);
            let target = BlockRows { block: &mut block, first, count };
            rows_times_tiles(threads.kernels, layers, input, target, panel, next);
            if activation == Activation::Gelu {
                for tile in 0..block.tiles {
                    (threads.kernels.gelu)(&mut block.tile(tile)[first..first + count]);
                }
            }
        }
    });
}

/// Some rows (output features) of a block.
struct BlockRows<'b, 'm> {
    block: &'b mut TileBlock<'m>,
    /// Index of the first row in the block.
    first: usize,
    /// Number of rows, at most [`ROWS`].
    count: usize,
}

/// Computes some rows of a block. `next` holds stored weights that are wanted soon.
fn rows_times_tiles(
    kernels: &Kernels,
    layers: &[LinearWeights<'_>],
    input: &Tiles,
    rows: BlockRows<'_, '_>,
    panel: &mut WeightPanel,
    next: &[u8],
) {
    let BlockRows { block, first, count } = rows;
    let inputs = input.features();
    let steps = inputs.div_ceil(COLUMN_STEP) * block.tiles.div_ceil(2);
    for column in (0..inputs).step_by(COLUMN_STEP) {
        let depth = COLUMN_STEP.min(inputs - column);
        decode(kernels, layers, block.first_feature + first..block.first_feature + first + count, column, panel);
        let whole = Product { a: &panel.values, stride: STRIDE, depth, next: &[] };
        let start = (column == 0).then_some(&panel.bias);
        let x = |tile: usize| &input.tile(tile)[column..column + depth];
        for tile in (0..block.tiles).step_by(2) {
            // Prefetches are spread evenly over the products, which hide their latency.
            let step = column / COLUMN_STEP * block.tiles.div_ceil(2) + tile / 2;
            let product = Product { next: part(next, step, steps), ..whole };
            let at = block.first_tile + tile;
            if tile + 1 < block.tiles {
                let c = block.two_tiles(tile).map(|c| &mut c[first..first + count]);
                two_tiles(kernels, product, [x(at), x(at + 1)], c, start);
            } else {
                one_tile(kernels, product, x(at), &mut block.tile(tile)[first..first + count], start);
            }
        }
    }
}

/// Decodes rows from a column on, as many as fit between two rows of the panel, and their biases.
fn decode(kernels: &Kernels, layers: &[LinearWeights<'_>], rows: Range<usize>, column: usize, panel: &mut WeightPanel) {
    let mut done = 0;
    while done < rows.len() {
        let (layer, first) = find_row(layers, rows.start + done);
        let count = (rows.len() - done).min(layer.weight.rows() - first);
        let depth = COLUMN_STEP.min(layer.weight.columns() - column);
        for row in 0..count {
            layer.weight.decode(kernels, first + row, column, &mut panel.values[(done + row) * STRIDE..][..depth]);
        }
        layer.decode_bias(kernels, first, &mut panel.bias[done..done + count]);
        done += count;
    }
}

/// Part `index` of `count` nearly equal parts.
fn part(bytes: &[u8], index: usize, count: usize) -> &[u8] {
    &bytes[bytes.len() * index / count..bytes.len() * (index + 1) / count]
}

/// The stored bytes of a block of rows, as far as one layer has them.
fn stored<'a>(layers: &[LinearWeights<'a>], row: usize) -> &'a [u8] {
    let rows: usize = layers.iter().map(|layer| layer.weight.rows()).sum();
    if row >= rows {
        return &[];
    }
    let (layer, at) = find_row(layers, row);
    layer.weight.stored_rows(at, ROWS)
}

/// The layer that has the row with this number, and the row's number in it.
fn find_row<'l, 'a>(layers: &'l [LinearWeights<'a>], mut row: usize) -> (&'l LinearWeights<'a>, usize) {
    let mut layer = 0;
    while row >= layers[layer].weight.rows() {
        row -= layers[layer].weight.rows();
        layer += 1;
    }
    (&layers[layer], row)
}

fn two_tiles(
    kernels: &Kernels,
    product: Product<'_>,
    [x0, x1]: [&[Lanes]; 2],
    [c0, c1]: [&mut [Lanes]; 2],
    start: Option<&[f32; ROWS]>,
) {
    if c0.len() < ROWS {
        one_tile(kernels, product, x0, c0, start);
        one_tile(kernels, product, x1, c1, start);
        return;
    }
    begin(c0, start);
    begin(c1, start);
    (kernels.multiply_two)(product, [x0, x1], [c0, c1]);
}

fn one_tile(kernels: &Kernels, product: Product<'_>, x: &[Lanes], c: &mut [Lanes], start: Option<&[f32; ROWS]>) {
    begin(c, start);
    if c.len() == ROWS {
        (kernels.multiply)(product, x, c);
        return;
    }
    let mut whole = [Lanes::ZERO; ROWS];
    whole[..c.len()].copy_from_slice(c);
    (kernels.multiply)(product, x, &mut whole);
    c.copy_from_slice(&whole[..c.len()]);
}

fn begin(c: &mut [Lanes], start: Option<&[f32; ROWS]>) {
    if let Some(bias) = start {
        for (c, bias) in c.iter_mut().zip(bias) {
            *c = Lanes([*bias; LANES]);
        }
    }
}
