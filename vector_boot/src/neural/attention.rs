//! Attention of the tokens of each text among themselves, head by head.
//!
//! Lanes hold different queries, so a softmax runs over the keys within one lane.

use std::ops::Range;

use super::kernels::{Kernels, Product, ROWS};
use super::lanes::{BlockSize, Lanes, TileBlock, Tiles, LANES};
use super::pass::PassThreads;
use super::scratch::HeadBuffers;

/// output = softmax(q kᵀ / √width) v for each text and head.
///
/// `inputs` has the features of all queries, then of all keys, then of all values; `texts` are ranges of tokens, at least one.
pub(super) fn attention(
    threads: &PassThreads<'_>,
    texts: &[Range<usize>],
    heads: usize,
    inputs: &Tiles,
    output: &mut Tiles,
) {
    let embedding = inputs.features() / 3;
    output.reshape(inputs.tiles(), embedding);
    // Lanes after the last text take part in later products, but their results are never read.
    output.tile_mut(inputs.tiles() - 1).fill(Lanes::ZERO);
    let (width, tiles) = (embedding / heads, inputs.tiles());
    threads.for_each_block(output, BlockSize { features: width, tiles }, &|scratch, mut block| {
        for text in texts {
            scratch.head.load(inputs, block.first_feature, width, text);
            for query in (0..text.len().div_ceil(LANES)).step_by(2) {
                if threads.is_cancelled() {
                    return;
                }
                scratch.head.mix(threads.kernels, width, text.len(), query);
                scratch.head.store(&mut block, text, query);
            }
        }
    });
}

impl HeadBuffers {
    /// Copies a text's queries, keys and values of the head that starts at `feature`.
    fn load(&mut self, inputs: &Tiles, feature: usize, width: usize, text: &Range<usize>) {
        let (embedding, tokens) = (inputs.features() / 3, text.len());
        // An even number of tiles: they are mixed two at a time.
        self.queries.reshape(tokens.div_ceil(LANES).next_multiple_of(2), width);
        for tile in tokens / LANES..self.queries.tiles() {
            self.queries.tile_mut(tile).fill(Lanes::ZERO);
        }
        self.keys.clear();
        self.keys.resize(tokens.next_multiple_of(ROWS) * width, 0.0);
        self.values.clear();
        self.values.resize(width.next_multiple_of(ROWS) * tokens, 0.0);
        let mut token = 0;
        while token < tokens {
            let (from, to) = ((text.start + token) % LANES, token % LANES);
            let count = (LANES - from).min(LANES - to).min(tokens - token);
            let source = inputs.tile((text.start + token) / LANES);
            let queries = self.queries.tile_mut(token / LANES);
            for d in 0..width {
                let part = |part: usize| &source[part * embedding + feature + d].0;
                copy_lanes(&part(0)[from..], &mut queries[d].0[to..], count);
                for (i, key) in part(1)[from..from + count].iter().enumerate() {
                    self.keys[(token + i) * width + d] = *key;
                }
                copy_lanes(&part(2)[from..], &mut self.values[d * tokens + token..], count);
            }
            token += count;
        }
    }

    /// Attends with the queries of the tiles `query` and `query + 1`.
    fn mix(&mut self, kernels: &Kernels, width: usize, tokens: usize, query: usize) {
        let (score_rows, mixed_rows) = (tokens.next_multiple_of(ROWS), width.next_multiple_of(ROWS));
        let queries = [self.queries.tile(query), self.queries.tile(query + 1)];
        self.scores.reshape(2, score_rows);
        multiply(kernels, &self.keys, width, queries, &mut self.scores);
        let scale = 1.0 / (width as f32).sqrt();
        let inverse = [0, 1].map(|tile| (kernels.softmax)(&mut self.scores.tile_mut(tile)[..tokens], scale));
        self.mixed.reshape(2, mixed_rows);
        let scores = [self.scores.tile(0), self.scores.tile(1)];
        multiply(kernels, &self.values, tokens, scores, &mut self.mixed);
        for (tile, inverse) in inverse.iter().enumerate() {
            for value in self.mixed.tile_mut(tile) {
                for (value, inverse) in value.0.iter_mut().zip(inverse.0) {
                    *value *= inverse;
                }
            }
        }
    }

    /// Copies the two tiles of results, which begin with the text, to where the batch has the text.
    fn store(&self, block: &mut TileBlock<'_>, text: &Range<usize>, query: usize) {
        let mut token = query * LANES;
        let end = text.len().min((query + 2) * LANES);
        while token < end {
            let (from, to) = (token % LANES, (text.start + token) % LANES);
            let count = (LANES - from).min(LANES - to).min(end - token);
            let target = block.tile((text.start + token) / LANES);
            for (target, mixed) in target.iter_mut().zip(self.mixed.tile(token / LANES - query)) {
                copy_lanes(&mixed.0[from..], &mut target.0[to..], count);
            }
            token += count;
        }
    }
}

/// Copies `count` lanes; a whole tile is one move instead of a call.
#[inline(always)]
fn copy_lanes(from: &[f32], to: &mut [f32], count: usize) {
    match (from.first_chunk::<LANES>(), to.first_chunk_mut::<LANES>()) {
        (Some(from), Some(to)) if count == LANES => *to = *from,
        _ => to[..count].copy_from_slice(&from[..count]),
    }
}

/// c = a · x for two tiles, where c has as many rows as a, a whole number of blocks.
fn multiply(kernels: &Kernels, a: &[f32], depth: usize, x: [&[Lanes]; 2], c: &mut Tiles) {
    let rows = c.features();
    let [c0, c1] = c.first_two();
    c0.fill(Lanes::ZERO);
    c1.fill(Lanes::ZERO);
    for row in (0..rows).step_by(ROWS) {
        let product = Product { a: &a[row * depth..], stride: depth, depth, next: &[] };
        (kernels.multiply_two)(product, x, [&mut c0[row..], &mut c1[row..]]);
    }
}
