//! The texts of one forward pass, and why a step of it stops early.

use std::ops::Range;

use super::error::{ForwardError, Layer};
use super::scratch::Scratch;
use super::threads::Threads;

/// The threads of a forward pass, each with its scratch memory.
pub(super) type PassThreads<'a> = Threads<'a, Scratch>;

/// The texts of a pass, one after the other.
pub(super) struct Batch {
    /// All tokens of all texts.
    pub tokens: Vec<BatchToken>,
    /// The range of `tokens` that each text occupies.
    pub texts: Vec<Range<usize>>,
}

/// A token and its position in its text.
#[derive(Clone, Copy)]
pub(super) struct BatchToken {
    pub id: u32,
    /// Counted from 0.
    pub position: usize,
}

impl Batch {
    pub fn new(texts: &[&[u32]]) -> Self {
        let mut batch = Batch { tokens: Vec::new(), texts: Vec::new() };
        for text in texts {
            let start = batch.tokens.len();
            batch.tokens.extend(text.iter().enumerate().map(|(position, id)| BatchToken { id: *id, position }));
            batch.texts.push(start..batch.tokens.len());
        }
        batch
    }
}

/// Why a step of the pass stopped.
pub(super) enum StepError {
    NotFinite,
    Cancelled,
}

impl StepError {
    /// The error of the whole pass for a step in this layer.
    pub fn at(self, layer: Layer) -> ForwardError {
        match self {
            StepError::NotFinite => ForwardError::NotFinite(layer),
            StepError::Cancelled => ForwardError::Cancelled,
        }
    }
}

/// Ends the step if the pass was cancelled.
pub(super) fn check_cancelled(threads: &PassThreads<'_>) -> Result<(), StepError> {
    match threads.is_cancelled() {
        true => Err(StepError::Cancelled),
        false => Ok(()),
    }
}
