//! The numbers of a bert, from its metadata.

use super::Refusal;
use crate::gguf::{Gguf, Value, ValueType};
use crate::neural::config::Pooling;

/// The numbers of a bert; all counts are above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Layers.
    pub blocks: u32,
    /// The most tokens of one text, at least 2.
    pub context: u32,
    /// Width of a token's state, and elements of an embedding.
    pub embedding: u32,
    /// Width inside the feed-forward part.
    pub feed_forward: u32,
    /// Attention heads; they divide `embedding`.
    pub heads: u32,
    /// What layer norms add to the variance.
    pub epsilon: f32,
    /// How embeddings are made.
    pub pooling: Pooling,
    /// Tokens of the vocabulary.
    pub tokens: u32,
    /// Segments, where the file says how many.
    pub token_types: Option<u32>,
}

impl Hyperparameters {
    /// Reads the keys of `general`, `bert` and `tokenizer`.
    pub(super) fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, Refusal> {
        check_support(gguf)?;
        let pooling = pooling(gguf)?;
        check_not_causal(gguf)?;
        let numbers = Hyperparameters {
            blocks: count(gguf, "bert.block_count", 1)?,
            context: count(gguf, "bert.context_length", 2)?,
            embedding: count(gguf, "bert.embedding_length", 1)?,
            feed_forward: count(gguf, "bert.feed_forward_length", 1)?,
            heads: count(gguf, "bert.attention.head_count", 1)?,
            epsilon: epsilon(gguf)?,
            pooling,
            tokens: tokens(gguf)?,
            token_types: match gguf.value("tokenizer.ggml.token_type_count") {
                Some(_) => Some(count(gguf, "tokenizer.ggml.token_type_count", 1)?),
                None => None,
            },
        };
        if !numbers.embedding.is_multiple_of(numbers.heads) {
            let (heads, embedding) = (numbers.heads, numbers.embedding);
            let why =
                format!("bert.attention.head_count is {heads}, expected a divisor of embedding_length, {embedding}");
            return Err(Refusal::Invalid(why));
        }
        Ok(numbers)
    }
}

/// Architecture and kind of tokenizer: what is not ours is sound all the same.
fn check_support(gguf: &Gguf<'_>) -> Result<(), Refusal> {
    for (key, what) in [("general.architecture", "architecture"), ("tokenizer.ggml.model", "tokenizer")] {
        match gguf.value(key) {
            Some(Value::Str("bert")) => (),
            // Names are short where they are honest; the sentence must fit a line of the protocol.
            Some(Value::Str(other)) => {
                let name: String = other.chars().take(48).flat_map(char::escape_default).collect();
                return Err(Refusal::Unsupported(format!("the model's {what} is {name}, only bert makes embeddings")));
            }
            None => {
                let why = format!("the model has no {key}, only bert makes embeddings");
                return Err(Refusal::Unsupported(why));
            }
            Some(other) => return Err(Refusal::Invalid(format!("{key} is {other}, expected a string"))),
        }
    }
    Ok(())
}

fn pooling(gguf: &Gguf<'_>) -> Result<Pooling, Refusal> {
    let key = "bert.pooling_type";
    let unsupported = |name| Refusal::Unsupported(format!("{key} is {name}, only mean, cls and last make embeddings"));
    match gguf.value(key) {
        Some(Value::U32(1)) => Ok(Pooling::Mean),
        Some(Value::U32(2)) => Ok(Pooling::Cls),
        Some(Value::U32(3)) => Ok(Pooling::Last),
        Some(Value::U32(0)) => Err(unsupported("none")),
        Some(Value::U32(4)) => Err(unsupported("rank")),
        None => Err(unsupported("absent")),
        Some(Value::U32(other)) => Err(Refusal::Invalid(format!("{key} is {other}, expected 0 to 4"))),
        Some(other) => Err(Refusal::Invalid(format!("{key} is {other}, expected a u32"))),
    }
}

fn check_not_causal(gguf: &Gguf<'_>) -> Result<(), Refusal> {
    match gguf.value("bert.attention.causal") {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(other) => Err(Refusal::Invalid(format!("bert.attention.causal is {other}, expected false"))),
    }
}

/// A u32, or a u64 that fits one: writers differ.
fn count(gguf: &Gguf<'_>, key: &str, least: u32) -> Result<u32, Refusal> {
    let found = gguf.value(key);
    let number = match found {
        Some(Value::U32(number)) => Some(*number),
        Some(Value::U64(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    match (number, found) {
        (Some(number), _) if number >= least => Ok(number),
        (Some(_), Some(found)) => Err(Refusal::Invalid(format!("{key} is {found}, expected at least {least}"))),
        (_, Some(found)) => Err(Refusal::Invalid(format!("{key} is {found}, expected a number of type u32"))),
        (_, None) => Err(Refusal::Invalid(format!("{key} is absent, expected a u32"))),
    }
}

fn epsilon(gguf: &Gguf<'_>) -> Result<f32, Refusal> {
    let key = "bert.attention.layer_norm_epsilon";
    match gguf.value(key) {
        Some(Value::F32(epsilon)) if epsilon.is_finite() && *epsilon > 0.0 => Ok(*epsilon),
        Some(other) => Err(Refusal::Invalid(format!("{key} is {other}, expected a finite f32 above 0"))),
        None => Err(Refusal::Invalid(format!("{key} is absent, expected a finite f32 above 0"))),
    }
}

/// Length of the vocabulary; its content is the tokenizer's business.
fn tokens(gguf: &Gguf<'_>) -> Result<u32, Refusal> {
    let key = "tokenizer.ggml.tokens";
    match gguf.value(key) {
        // The parser allows 4 Mi elements.
        Some(Value::Array(array)) if array.element_type == ValueType::Str && array.len > 0 => Ok(array.len as u32),
        Some(other) => Err(Refusal::Invalid(format!("{key} is {other}, expected an array of strings"))),
        None => Err(Refusal::Invalid(format!("{key} is absent, expected an array of strings"))),
    }
}
