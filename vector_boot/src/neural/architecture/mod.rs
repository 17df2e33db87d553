//! Checks what a GGUF says about its network: the hyperparameters, and that each tensor has a role and fits it. The
//! container itself was checked before.
//!
//! A model of another architecture, or one whose output is no embedding, is *unsupported*: the machine boots, and `embed`
//! answers that the model cannot. A bert that contradicts itself is *invalid*: no machine should run it.
//!
//! The tensors that may be absent are those that llama.cpp does without: `token_types.weight` (nothing is added then),
//! and the bias of every matrix (zero then). Query, key and value come from three matrices, or from the fused
//! `attn_qkv`. The tensors `cls.*` of a reranker may be there; embeddings do not use them.

mod hyperparameters;
mod tensors;
#[cfg(test)]
mod tests;

use super::error::NetworkError;
use crate::gguf::Gguf;
pub use hyperparameters::Hyperparameters;
use tensors::UnclaimedTensors;

/// Checks the metadata and tensors of a model and returns its hyperparameters.
///
/// # Errors
/// [`NetworkError`], one sentence that names the key or tensor, what it is and what was expected.
pub fn check(gguf: &Gguf<'_>) -> Result<Hyperparameters, NetworkError> {
    let numbers = Hyperparameters::from_gguf(gguf)?;
    let mut tensors = UnclaimedTensors::of(gguf);
    claim_bert(&numbers, &mut tensors)?;
    tensors.check_none_left()?;
    Ok(numbers)
}

fn claim_bert(numbers: &Hyperparameters, tensors: &mut UnclaimedTensors<'_>) -> Result<(), NetworkError> {
    let width = numbers.embedding;
    tensors.check_block_count(numbers.blocks)?;
    tensors.matrix("token_embd.weight", width, numbers.tokens)?;
    tensors.table("position_embd.weight", width, numbers.context)?;
    if tensors.has("token_types.weight") {
        match numbers.token_types {
            Some(rows) => tensors.matrix("token_types.weight", width, rows)?,
            None => tensors.table("token_types.weight", width, 1)?,
        }
    }
    tensors.norm("token_embd_norm", width)?;
    for block in 0..numbers.blocks {
        claim_block(block, numbers, tensors)?;
    }
    tensors.reranker(width)
}

fn claim_block(block: u32, numbers: &Hyperparameters, tensors: &mut UnclaimedTensors<'_>) -> Result<(), NetworkError> {
    let (width, inner) = (numbers.embedding, numbers.feed_forward);
    let named = |part: &str| format!("blk.{block}.{part}");
    if tensors.has(&named("attn_qkv.weight")) {
        // A saturated row count fits no tensor: such a matrix would be larger than any file.
        tensors.linear(&named("attn_qkv"), width, width.saturating_mul(3))?;
    } else {
        for part in ["attn_q", "attn_k", "attn_v"] {
            tensors.linear(&named(part), width, width)?;
        }
    }
    tensors.linear(&named("attn_output"), width, width)?;
    tensors.norm(&named("attn_output_norm"), width)?;
    tensors.linear(&named("ffn_up"), width, inner)?;
    tensors.linear(&named("ffn_down"), inner, width)?;
    tensors.norm(&named("layer_output_norm"), width)
}
