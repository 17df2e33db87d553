//! The hyperparameters that a forward pass needs.

/// How the vectors of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean, [CLS] and [SEP] included.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The vector of the last token.
    Last,
}

/// Hyperparameters of a bert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BertConfig {
    /// Number of transformer blocks.
    pub blocks: usize,
    /// Width of a token's vector, and of an embedding.
    pub embedding: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: usize,
    /// Number of attention heads; it divides `embedding`.
    pub heads: usize,
    /// Most tokens of a text, [CLS] and [SEP] included.
    pub context: usize,
    /// Added to the variance in a layer norm.
    pub epsilon: f32,
    /// How a text's vectors become one.
    pub pooling: Pooling,
    /// Whether embeddings are scaled to length one.
    pub normalize: bool,
}
