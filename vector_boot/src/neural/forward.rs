//! The forward pass of a bert: token ids in, one embedding a text out.

use std::sync::atomic::AtomicBool;
use std::sync::Mutex;

use super::attention::attention;
use super::config::BertConfig;
use super::error::{ForwardError, Layer};
use super::kernels::{Kernels, Variant};
use super::lanes::{Lanes, Tiles, LANES};
use super::linear::{linear, Activation};
use super::pass::{Batch, PassThreads, StepError};
use super::pool::ThreadPool;
use super::pooling;
use super::residual::{add_and_norm, embed};
use super::scratch::Scratch;
use super::weights::{BlockWeights, Weights};

/// The memory of forward passes. It grows to the largest batch and is reused.
pub struct Workspace {
    kernels: &'static Kernels,
    scratch: Vec<Mutex<Scratch>>,
    activations: Activations,
}

/// The activations of a pass.
#[derive(Default)]
struct Activations {
    /// The residual stream.
    stream: Tiles,
    /// To be added to the stream.
    addend: Tiles,
    /// Queries, keys and values.
    inputs: Tiles,
    /// Outputs of the attention heads.
    mixed: Tiles,
    /// Inside the feed-forward network.
    inner: Tiles,
}

impl Workspace {
    /// An empty workspace for the given kernels; `None` if this CPU cannot run them.
    pub fn new(variant: Variant) -> Option<Self> {
        Some(Workspace { kernels: variant.kernels()?, scratch: Vec::new(), activations: Activations::default() })
    }

    /// Embeds texts given as token ids: `config.embedding` values a text, one text after the other.
    ///
    /// The bits of an embedding depend on its own text and the weights alone, not on the other texts, the number of
    /// threads or the variant. Each thread checks `cancel` at least every ten million multiply-adds.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn forward(
        &mut self,
        config: &BertConfig,
        weights: &Weights<'_>,
        texts: &[&[u32]],
        pool: &ThreadPool,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, ForwardError> {
        check(config, weights, texts)?;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.scratch.resize_with(self.scratch.len().max(pool.threads()), Mutex::default);
        let threads = PassThreads { kernels: self.kernels, pool, scratch: &self.scratch, cancel };
        let batch = Batch::new(texts);
        self.activations.embed(&threads, config, weights, &batch).map_err(|error| error.at(Layer::Embeddings))?;
        for (index, block) in weights.blocks.iter().enumerate() {
            self.activations.block(&threads, config, block, &batch).map_err(|error| error.at(Layer::Block(index)))?;
        }
        let embeddings = pooling::pool(config, &self.activations.stream, &batch.texts);
        if embeddings.iter().all(|value| value.is_finite()) {
            Ok(embeddings)
        } else {
            Err(ForwardError::NotFinite(Layer::Pooling))
        }
    }
}

impl Activations {
    fn embed(
        &mut self,
        threads: &PassThreads<'_>,
        config: &BertConfig,
        weights: &Weights<'_>,
        batch: &Batch,
    ) -> Result<(), StepError> {
        let tiles = batch.tokens.len().div_ceil(LANES);
        self.addend.reshape(tiles, config.embedding);
        self.stream.reshape(tiles, config.embedding);
        embed(threads, weights, batch, &mut self.addend);
        for tile in 0..tiles {
            self.stream.tile_mut(tile).fill(Lanes::ZERO);
        }
        add_and_norm(threads, &weights.embedding_norm, config.epsilon, &self.addend, &mut self.stream, batch)
    }

    fn block(
        &mut self,
        threads: &PassThreads<'_>,
        config: &BertConfig,
        block: &BlockWeights<'_>,
        batch: &Batch,
    ) -> Result<(), StepError> {
        linear(threads, &block.attention_inputs, &self.stream, &mut self.inputs, Activation::None);
        attention(threads, &batch.texts, config.heads, &self.inputs, &mut self.mixed);
        linear(threads, &[block.attention_output], &self.mixed, &mut self.addend, Activation::None);
        add_and_norm(threads, &block.attention_norm, config.epsilon, &self.addend, &mut self.stream, batch)?;
        linear(threads, &[block.feed_forward_up], &self.stream, &mut self.inner, Activation::Gelu);
        linear(threads, &[block.feed_forward_down], &self.inner, &mut self.addend, Activation::None);
        add_and_norm(threads, &block.output_norm, config.epsilon, &self.addend, &mut self.stream, batch)
    }
}

/// Checks all arguments that the pass relies on.
fn check(config: &BertConfig, weights: &Weights<'_>, texts: &[&[u32]]) -> Result<(), ForwardError> {
    let divided = config.heads > 0 && config.embedding > 0 && config.embedding.is_multiple_of(config.heads);
    if !divided || config.feed_forward == 0 || !weights.fit(config) {
        return Err(ForwardError::WeightShapes);
    }
    for (index, text) in texts.iter().enumerate() {
        if text.is_empty() || text.len() > config.context {
            return Err(ForwardError::TextLength(index));
        }
        let unknown = |token: &&u32| **token as usize >= weights.token_embedding.rows();
        if let Some(token) = text.iter().find(unknown) {
            return Err(ForwardError::Token(*token));
        }
    }
    Ok(())
}
