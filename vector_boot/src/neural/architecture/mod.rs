//! What a model means: its hyperparameters, and which tensor plays which role. The container has been checked before.
//!
//! A model of another architecture, or one whose answer is no embedding, is *unsupported*: the machine boots, and `embed`
//! says that the model cannot. A bert that contradicts itself is *invalid*: no machine should run it.

mod hyperparameters;
mod tensors;
#[cfg(test)]
mod tests;

use crate::gguf::{Gguf, TensorType};
pub use hyperparameters::Hyperparameters;
use tensors::Tensors;

/// Why a model is not a bert to compute with; one sentence each, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A sound model, of which this runtime makes no embeddings.
    Unsupported(String),
    /// A bert with a wrong key or tensor, which the sentence names.
    Invalid(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Unsupported(why) | Refusal::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

/// A tensor that plays a role, by its name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Unique name.
    pub name: Box<str>,
    /// Type of its elements.
    pub tensor_type: TensorType,
    /// Elements of a row; the whole length of a vector.
    pub columns: u32,
    /// Rows; 1 for a vector.
    pub rows: u32,
}

/// `rows` outputs of `columns` inputs each, and as many biases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// The matrix.
    pub weight: Weight,
    /// What is added to its product.
    pub bias: Weight,
}

/// A layer norm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Norm {
    /// The scale.
    pub weight: Weight,
    /// What is added after scaling.
    pub bias: Weight,
}

/// Where queries, keys and values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// From one matrix, whose rows are those of queries, then keys, then values.
    Fused(Linear),
    /// From a matrix each.
    Separate {
        /// Queries.
        query: Linear,
        /// Keys.
        key: Linear,
        /// Values.
        value: Linear,
    },
}

/// One transformer layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// `attn_qkv`, or `attn_q`, `attn_k` and `attn_v`.
    pub projection: Projection,
    /// `attn_output`
    pub attention_output: Linear,
    /// `attn_output_norm`
    pub attention_norm: Norm,
    /// `ffn_up`
    pub up: Linear,
    /// `ffn_down`
    pub down: Linear,
    /// `layer_output_norm`
    pub output_norm: Norm,
}

/// A bert, judged: every tensor it names is in the file with these dimensions and a type the kernels read.
#[derive(Debug, Clone, PartialEq)]
pub struct Bert {
    /// Its numbers.
    pub hyperparameters: Hyperparameters,
    /// One row per token id.
    pub tokens: Weight,
    /// One row per position, at least as many as the context is long.
    pub positions: Weight,
    /// One row per segment; row 0 is added to every token.
    pub token_types: Weight,
    /// Norm of the sum of the three.
    pub embedding_norm: Norm,
    /// The layers, in order.
    pub blocks: Vec<Block>,
}

impl Bert {
    /// Judges the metadata and tensors of a model.
    ///
    /// # Errors
    /// [`Refusal`], one sentence that names the key or tensor, what it is and what was expected.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, Refusal> {
        let hyperparameters = Hyperparameters::from_gguf(gguf)?;
        let mut tensors = Tensors::of(gguf);
        let bert = Self::from_tensors(hyperparameters, &mut tensors)?;
        tensors.check_all_taken()?;
        Ok(bert)
    }

    fn from_tensors(numbers: Hyperparameters, tensors: &mut Tensors<'_>) -> Result<Self, Refusal> {
        let width = numbers.embedding;
        tensors.check_block_count(numbers.blocks)?;
        let tokens = tensors.matrix("token_embd.weight", width, numbers.tokens)?;
        let positions = tensors.table("position_embd.weight", width, numbers.context)?;
        let token_types = match numbers.token_types {
            Some(rows) => tensors.matrix("token_types.weight", width, rows)?,
            None => tensors.table("token_types.weight", width, 1)?,
        };
        let embedding_norm = tensors.norm("token_embd_norm", width)?;
        let blocks = (0..numbers.blocks).map(|block| Block::from_tensors(block, &numbers, tensors));
        let blocks = blocks.collect::<Result<_, _>>()?;
        Ok(Bert { hyperparameters: numbers, tokens, positions, token_types, embedding_norm, blocks })
    }
}

impl Block {
    fn from_tensors(block: u32, numbers: &Hyperparameters, tensors: &mut Tensors<'_>) -> Result<Self, Refusal> {
        let (width, inner) = (numbers.embedding, numbers.feed_forward);
        let named = |part: &str| format!("blk.{block}.{part}");
        let projection = if tensors.has(&named("attn_qkv.weight")) {
            // Saturated, it fits no tensor: such a matrix would be larger than any file.
            Projection::Fused(tensors.linear(&named("attn_qkv"), width, width.saturating_mul(3))?)
        } else {
            Projection::Separate {
                query: tensors.linear(&named("attn_q"), width, width)?,
                key: tensors.linear(&named("attn_k"), width, width)?,
                value: tensors.linear(&named("attn_v"), width, width)?,
            }
        };
        Ok(Block {
            projection,
            attention_output: tensors.linear(&named("attn_output"), width, width)?,
            attention_norm: tensors.norm(&named("attn_output_norm"), width)?,
            up: tensors.linear(&named("ffn_up"), width, inner)?,
            down: tensors.linear(&named("ffn_down"), inner, width)?,
            output_norm: tensors.norm(&named("layer_output_norm"), width)?,
        })
    }
}
