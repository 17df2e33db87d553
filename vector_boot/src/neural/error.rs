//! Why a forward pass gives no embeddings.

use std::fmt;

/// A step of the pass, as far as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The sum of the embeddings and its norm.
    Embeddings,
    /// A transformer block.
    Block(usize),
    /// From the tokens' vectors to the text's.
    Pooling,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Embeddings => f.write_str("the embeddings"),
            Layer::Block(index) => write!(f, "blk.{index}"),
            Layer::Pooling => f.write_str("the pooling"),
        }
    }
}

/// Why a pass gave no embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardError {
    /// A value became infinite or not a number; the first layer that gave one out.
    NotFinite(Layer),
    /// It was cancelled.
    Cancelled,
    /// The weights are not of the shapes that the configuration asks for.
    WeightShapes,
    /// This text, counted from 0, is empty or longer than the context.
    TextLength(usize),
    /// This token is not in the vocabulary.
    Token(u32),
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardError::NotFinite(layer) => write!(f, "{layer} gave a value that is infinite or not a number"),
            ForwardError::Cancelled => f.write_str("the forward pass was cancelled"),
            ForwardError::WeightShapes => f.write_str("the weights have not the shapes of the configuration"),
            ForwardError::TextLength(text) => write!(f, "text {text} has no tokens, or more than the context"),
            ForwardError::Token(token) => write!(f, "token {token} is not in the vocabulary"),
        }
    }
}
