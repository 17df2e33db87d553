//! Why a model has no network that can be run, and why a forward pass gives no embeddings.

use std::fmt;

/// Why a model has no network that can be run; one sentence each, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkError {
    /// The model is valid, but this runtime cannot make embeddings with it. The machine boots, and `embed` says why not.
    Unsupported(String),
    /// A model of a known architecture with a wrong key or tensor, which the sentence names. No machine should run it.
    Invalid(String),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::Unsupported(why) | NetworkError::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NetworkError {}

/// The part of the network in which a pass failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The sum of the embeddings and its norm.
    Embeddings,
    /// A transformer block.
    Block(usize),
    /// From the vectors of the tokens to the vector of the text.
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
    /// A value became infinite or not a number. The first layer with such an output is named.
    NotFinite(Layer),
    /// It was cancelled.
    Cancelled,
    /// The shapes of the weights do not fit the hyperparameters.
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
            ForwardError::WeightShapes => f.write_str("the shapes of the weights do not fit the hyperparameters"),
            ForwardError::TextLength(text) => write!(f, "text {text} has no tokens, or more than the context"),
            ForwardError::Token(token) => write!(f, "token {token} is not in the vocabulary"),
        }
    }
}
