//! The weights of a bert as they are stored: borrowed at each pass, decoded where they are used.

use super::config::BertConfig;
use super::kernels::Kernels;
use crate::element::{Quantized, Storage};
use crate::gguf::TensorType;

/// Columns are decoded in ranges that start at multiples of this, which is whole blocks of every type.
pub(super) const COLUMN_STEP: usize = 512;

/// A matrix in a storage type, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    tensor_type: TensorType,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix of the bytes of a tensor; `None` if they are too few, or of a type that cannot be computed with.
    pub fn new(tensor_type: TensorType, rows: usize, columns: usize, bytes: &'a [u8]) -> Option<Self> {
        if Storage::of(tensor_type).is_none() && Quantized::of(tensor_type).is_none() {
            return None;
        }
        let (elements, block) = (tensor_type.block_elements() as usize, tensor_type.block_bytes() as usize);
        let row_bytes = columns.is_multiple_of(elements).then_some(columns / elements)?.checked_mul(block)?;
        let bytes = bytes.get(..rows.checked_mul(row_bytes)?)?;
        Some(Matrix { tensor_type, rows, columns, row_bytes, bytes })
    }

    /// Number of rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Decodes `out.len()` values of a row, from a column that starts a block.
    pub(super) fn decode(&self, kernels: &Kernels, row: usize, column: usize, out: &mut [f32]) {
        let skipped = column / self.tensor_type.block_elements() as usize * self.tensor_type.block_bytes() as usize;
        (kernels.decode)(self.tensor_type, &self.bytes[row * self.row_bytes..][skipped..self.row_bytes], out);
    }

    /// The stored bytes of up to `count` rows; fewer at the end.
    pub(super) fn stored_rows(&self, row: usize, count: usize) -> &'a [u8] {
        let (start, end) = (row.min(self.rows), row.saturating_add(count).min(self.rows));
        &self.bytes[start * self.row_bytes..end * self.row_bytes]
    }

    /// A vector whose elements can be decoded one by one.
    fn is_vector(&self, columns: usize) -> bool {
        (self.rows, self.columns, self.tensor_type.block_elements()) == (1, columns, 1)
    }
}

/// A linear layer: y = weight · x + bias.
#[derive(Debug, Clone, Copy)]
pub struct LinearWeights<'a> {
    /// Outputs by inputs.
    pub weight: Matrix<'a>,
    /// One row of outputs; zero if absent.
    pub bias: Option<Matrix<'a>>,
}

impl LinearWeights<'_> {
    /// Decodes the biases of some rows; zeros if there are none.
    pub(super) fn decode_bias(&self, kernels: &Kernels, first_row: usize, out: &mut [f32]) {
        match &self.bias {
            Some(bias) => bias.decode(kernels, 0, first_row, out),
            None => out.fill(0.0),
        }
    }

    fn fits(&self, outputs: usize, inputs: usize) -> bool {
        (self.weight.rows, self.weight.columns) == (outputs, inputs)
            && self.bias.is_none_or(|bias| bias.is_vector(outputs))
    }
}

/// Weight and bias of a layer norm, one row each.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights<'a> {
    /// Factors.
    pub weight: Matrix<'a>,
    /// Addends.
    pub bias: Matrix<'a>,
}

impl NormWeights<'_> {
    fn fits(&self, width: usize) -> bool {
        self.weight.is_vector(width) && self.bias.is_vector(width)
    }
}

/// One transformer block.
#[derive(Debug, Clone)]
pub struct BlockWeights<'a> {
    /// Query, key and value, or one matrix with the rows of all three.
    pub attention_inputs: Vec<LinearWeights<'a>>,
    /// From the heads to the residual.
    pub attention_output: LinearWeights<'a>,
    /// After the attention.
    pub attention_norm: NormWeights<'a>,
    /// Into the feed-forward network.
    pub feed_forward_up: LinearWeights<'a>,
    /// Out of it.
    pub feed_forward_down: LinearWeights<'a>,
    /// After it.
    pub output_norm: NormWeights<'a>,
}

/// All weights of a bert.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    /// A row for each token of the vocabulary.
    pub token_embedding: Matrix<'a>,
    /// A row for each position.
    pub position_embedding: Matrix<'a>,
    /// A row for each token type; every token is of the first. Nothing is added if absent.
    pub token_types: Option<Matrix<'a>>,
    /// Norm of the sum of these embeddings.
    pub embedding_norm: NormWeights<'a>,
    /// The transformer blocks in order.
    pub blocks: Vec<BlockWeights<'a>>,
}

impl<'a> Weights<'a> {
    /// Collects the weights by llama.cpp's tensor names. Biases of linear layers and `token_types` may be absent.
    ///
    /// # Errors
    /// The first name of a required tensor that `find` has no matrix for.
    pub fn by_name(config: &BertConfig, find: &dyn Fn(&str) -> Option<Matrix<'a>>) -> Result<Self, String> {
        let get = |name: String| find(&name).ok_or(name);
        let linear = |stem: String| {
            Ok::<_, String>(LinearWeights { weight: get(stem.clone() + ".weight")?, bias: find(&(stem + ".bias")) })
        };
        let norm = |stem: String| {
            Ok::<_, String>(NormWeights { weight: get(stem.clone() + ".weight")?, bias: get(stem + ".bias")? })
        };
        let block = |index: usize| {
            let at = |part: &str| format!("blk.{index}.{part}");
            let inputs = match find(&at("attn_qkv.weight")) {
                Some(_) => vec![linear(at("attn_qkv"))?],
                None => vec![linear(at("attn_q"))?, linear(at("attn_k"))?, linear(at("attn_v"))?],
            };
            Ok(BlockWeights {
                attention_inputs: inputs,
                attention_output: linear(at("attn_output"))?,
                attention_norm: norm(at("attn_output_norm"))?,
                feed_forward_up: linear(at("ffn_up"))?,
                feed_forward_down: linear(at("ffn_down"))?,
                output_norm: norm(at("layer_output_norm"))?,
            })
        };
        Ok(Weights {
            token_embedding: get("token_embd.weight".into())?,
            position_embedding: get("position_embd.weight".into())?,
            token_types: find("token_types.weight"),
            embedding_norm: norm("token_embd_norm".into())?,
            blocks: (0..config.blocks).map(block).collect::<Result<_, String>>()?,
        })
    }

    /// Whether every shape fits the hyperparameters.
    pub(super) fn fit(&self, config: &BertConfig) -> bool {
        let width = config.embedding;
        let is_table = |table: &Matrix<'_>, rows: usize| table.columns == width && table.rows >= rows;
        is_table(&self.position_embedding, config.context)
            && is_table(&self.token_embedding, 1)
            && self.token_types.is_none_or(|types| is_table(&types, 1))
            && self.embedding_norm.fits(width)
            && self.blocks.len() == config.blocks
            && self.blocks.iter().all(|block| block.fits(config))
    }
}

impl BlockWeights<'_> {
    fn fits(&self, config: &BertConfig) -> bool {
        let (width, inner) = (config.embedding, config.feed_forward);
        let inputs = match &self.attention_inputs[..] {
            [fused] => fused.fits(3 * width, width),
            [query, key, value] => [query, key, value].iter().all(|part| part.fits(width, width)),
            _ => false,
        };
        inputs
            && self.attention_output.fits(width, width)
            && self.feed_forward_up.fits(inner, width)
            && self.feed_forward_down.fits(width, inner)
            && self.attention_norm.fits(width)
            && self.output_norm.fits(width)
    }
}
