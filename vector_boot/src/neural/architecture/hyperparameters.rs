//! The hyperparameters of a bert, from its metadata.

use crate::gguf::{Gguf, MetadataValue, ValueType};
use crate::neural::config::{BertConfig, Pooling};
use crate::neural::error::NetworkError;

/// The most tokens of a text, where that is less than the context; written when an image is built.
const MAX_TOKENS_KEY: &str = "vector_boot.max_tokens";

/// The hyperparameters of a bert; all counts are above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Transformer blocks.
    pub blocks: u32,
    /// Tokens of one text that the model has positions for, at least 2.
    pub context: u32,
    /// Most tokens of one text, at least 2 and at most `context`: `vector_boot.max_tokens` where the file has it.
    pub max_tokens: u32,
    /// Width of a token's vector, and of an embedding.
    pub embedding: u32,
    /// Width inside the feed-forward network.
    pub feed_forward: u32,
    /// Attention heads; their number divides `embedding`.
    pub heads: u32,
    /// What layer norms add to the variance.
    pub epsilon: f32,
    /// How embeddings are made.
    pub pooling: Pooling,
    /// Tokens of the vocabulary.
    pub tokens: u32,
    /// Number of token types, where the file has it.
    pub token_types: Option<u32>,
}

impl Hyperparameters {
    /// Reads the keys of `general`, `bert` and `tokenizer`.
    pub(super) fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, NetworkError> {
        check_support(gguf)?;
        let pooling = pooling(gguf)?;
        check_not_causal(gguf)?;
        let context = count(gguf, "bert.context_length", 2)?;
        let numbers = Hyperparameters {
            blocks: count(gguf, "bert.block_count", 1)?,
            context,
            max_tokens: optional_count(gguf, MAX_TOKENS_KEY, 2)?.map_or(context, |limit| limit.min(context)),
            embedding: count(gguf, "bert.embedding_length", 1)?,
            feed_forward: count(gguf, "bert.feed_forward_length", 1)?,
            heads: count(gguf, "bert.attention.head_count", 1)?,
            epsilon: epsilon(gguf)?,
            pooling,
            tokens: tokens(gguf)?,
            token_types: optional_count(gguf, "tokenizer.ggml.token_type_count", 1)?,
        };
        if !numbers.embedding.is_multiple_of(numbers.heads) {
            let (heads, embedding) = (numbers.heads, numbers.embedding);
            let why =
                format!("bert.attention.head_count is {heads}, expected a divisor of embedding_length, {embedding}");
            return Err(NetworkError::Invalid(why));
        }
        check_heads(gguf, &numbers)?;
        Ok(numbers)
    }

    /// What a forward pass needs of them; embeddings are scaled to length one.
    pub fn config(&self) -> BertConfig {
        BertConfig {
            blocks: self.blocks as usize,
            embedding: self.embedding as usize,
            feed_forward: self.feed_forward as usize,
            heads: self.heads as usize,
            context: self.max_tokens as usize,
            epsilon: self.epsilon,
            pooling: self.pooling,
            normalize: true,
        }
    }
}

/// Checks architecture and kind of tokenizer. A model of another architecture is valid, but unsupported.
fn check_support(gguf: &Gguf<'_>) -> Result<(), NetworkError> {
    for (key, what) in [("general.architecture", "architecture"), ("tokenizer.ggml.model", "tokenizer")] {
        match gguf.value(key) {
            Some(MetadataValue::Str("bert")) => (),
            // Cut, because the sentence must fit a line of the protocol.
            Some(MetadataValue::Str(other)) => {
                let name: String = other.chars().take(48).flat_map(char::escape_default).collect();
                return Err(NetworkError::Unsupported(format!(
                    "the model's {what} is {name}, only bert makes embeddings"
                )));
            }
            None => {
                let why = format!("the model has no {key}, only bert makes embeddings");
                return Err(NetworkError::Unsupported(why));
            }
            Some(other) => return Err(NetworkError::Invalid(format!("{key} is {other}, expected a string"))),
        }
    }
    Ok(())
}

fn pooling(gguf: &Gguf<'_>) -> Result<Pooling, NetworkError> {
    let key = "bert.pooling_type";
    let choices = "expected 1 (mean), 2 (cls) or 3 (last)";
    let unsupported = |found| NetworkError::Unsupported(format!("{key} is {found}, {choices}"));
    match gguf.value(key) {
        Some(MetadataValue::U32(1)) => Ok(Pooling::Mean),
        Some(MetadataValue::U32(2)) => Ok(Pooling::Cls),
        Some(MetadataValue::U32(3)) => Ok(Pooling::Last),
        Some(MetadataValue::U32(0)) => Err(unsupported("0 (none)")),
        Some(MetadataValue::U32(4)) => Err(unsupported("4 (rank)")),
        None => {
            let why = format!("{key} is absent, {choices}: give the pooling type when the image is built");
            Err(NetworkError::Unsupported(why))
        }
        Some(MetadataValue::U32(other)) => Err(NetworkError::Invalid(format!("{key} is {other}, expected 0 to 4"))),
        Some(other) => Err(NetworkError::Invalid(format!("{key} is {other}, expected a u32"))),
    }
}

fn check_not_causal(gguf: &Gguf<'_>) -> Result<(), NetworkError> {
    match gguf.value("bert.attention.causal") {
        None | Some(MetadataValue::Bool(false)) => Ok(()),
        Some(other) => Err(NetworkError::Invalid(format!("bert.attention.causal is {other}, expected false"))),
    }
}

/// Refuses attention that this runtime does not compute: fewer key heads than heads, or heads of another width.
fn check_heads(gguf: &Gguf<'_>, numbers: &Hyperparameters) -> Result<(), NetworkError> {
    let width = numbers.embedding / numbers.heads;
    for (name, computed) in [("head_count_kv", numbers.heads), ("key_length", width), ("value_length", width)] {
        let key = format!("bert.attention.{name}");
        match optional_count(gguf, &key, 1)? {
            Some(found) if found != computed => {
                return Err(NetworkError::Unsupported(format!("{key} is {found}, expected {computed}")));
            }
            _ => (),
        }
    }
    Ok(())
}

/// As [`count`], `None` if the key is absent.
fn optional_count(gguf: &Gguf<'_>, key: &str, least: u32) -> Result<Option<u32>, NetworkError> {
    gguf.value(key).map(|_| count(gguf, key, least)).transpose()
}

/// A u32, or a u64 that fits one: writers differ.
fn count(gguf: &Gguf<'_>, key: &str, least: u32) -> Result<u32, NetworkError> {
    let found = gguf.value(key);
    let number = match found {
        Some(MetadataValue::U32(number)) => Some(*number),
        Some(MetadataValue::U64(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    match (number, found) {
        (Some(number), _) if number >= least => Ok(number),
        (Some(_), Some(found)) => Err(NetworkError::Invalid(format!("{key} is {found}, expected at least {least}"))),
        (_, Some(found)) => Err(NetworkError::Invalid(format!("{key} is {found}, expected a number of type u32"))),
        (_, None) => Err(NetworkError::Invalid(format!("{key} is absent, expected a u32"))),
    }
}

fn epsilon(gguf: &Gguf<'_>) -> Result<f32, NetworkError> {
    let key = "bert.attention.layer_norm_epsilon";
    match gguf.value(key) {
        Some(MetadataValue::F32(epsilon)) if epsilon.is_finite() && *epsilon > 0.0 => Ok(*epsilon),
        Some(other) => Err(NetworkError::Invalid(format!("{key} is {other}, expected a finite f32 above 0"))),
        None => Err(NetworkError::Invalid(format!("{key} is absent, expected a finite f32 above 0"))),
    }
}

/// Length of the vocabulary; the tokenizer checks its content.
fn tokens(gguf: &Gguf<'_>) -> Result<u32, NetworkError> {
    let key = "tokenizer.ggml.tokens";
    match gguf.value(key) {
        // The parser allows 4 Mi elements.
        Some(MetadataValue::Array(array)) if array.element_type == ValueType::Str && array.len > 0 => {
            Ok(array.len as u32)
        }
        Some(other) => Err(NetworkError::Invalid(format!("{key} is {other}, expected an array of strings"))),
        None => Err(NetworkError::Invalid(format!("{key} is absent, expected an array of strings"))),
    }
}
