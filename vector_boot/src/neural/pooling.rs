//! From the vectors of a text's tokens to the text's embedding.

use std::ops::Range;

use super::config::{BertConfig, Pooling};
use super::lanes::{Tiles, LANES};

/// Smallest length that a vector is divided by.
const LEAST_NORM: f64 = 1e-12;

/// The embeddings of the texts, `config.embedding` values each.
pub(super) fn pool(config: &BertConfig, stream: &Tiles, texts: &[Range<usize>]) -> Vec<f32> {
    let mut embeddings = vec![0.0; texts.len() * config.embedding];
    for (text, embedding) in texts.iter().zip(embeddings.chunks_exact_mut(config.embedding)) {
        let chosen = match config.pooling {
            Pooling::Mean => text.clone(),
            Pooling::Cls => text.start..text.start + 1,
            Pooling::Last => text.end - 1..text.end,
        };
        sum(stream, &chosen, embedding);
        let count = chosen.len() as f32;
        embedding.iter_mut().for_each(|value| *value /= count);
        if config.normalize {
            normalize(embedding);
        }
    }
    embeddings
}

/// Adds up the vectors of the tokens, in order.
fn sum(stream: &Tiles, tokens: &Range<usize>, out: &mut [f32]) {
    let mut token = tokens.start;
    while token < tokens.end {
        let lane = token % LANES;
        let count = (LANES - lane).min(tokens.end - token);
        for (out, value) in out.iter_mut().zip(stream.tile(token / LANES)) {
            for x in &value.0[lane..lane + count] {
                *out += x;
            }
        }
        token += count;
    }
}

/// Scales a vector to length one; zero stays zero.
fn normalize(vector: &mut [f32]) {
    let square = vector.iter().fold(0.0, |sum, x| sum + f64::from(*x) * f64::from(*x));
    let norm = square.sqrt().max(LEAST_NORM);
    for x in vector {
        *x = (f64::from(*x) / norm) as f32;
    }
}
