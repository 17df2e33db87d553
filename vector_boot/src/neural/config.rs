//! What a bert is built like.

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean, [CLS] and [SEP] included.
    Mean,
    /// The first.
    Cls,
    /// The last.
    Last,
}

/// Hyperparameters of a bert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Transformer blocks.
    pub blocks: usize,
    /// Values of a token's vector.
    pub embedding: usize,
    /// Values inside the feed-forward network.
    pub feed_forward: usize,
    /// Attention heads; they divide `embedding`.
    pub heads: usize,
    /// Most tokens of a text.
    pub context: usize,
    /// Added to the variance in a layer norm.
    pub epsilon: f32,
    /// How a text's vectors become one.
    pub pooling: Pooling,
    /// Whether embeddings are scaled to length one.
    pub normalize: bool,
}
