//! A model that can think: its tokenizer and its numbers. The weights stay where they are and are borrowed at each pass.

use super::architecture::{Bert, Refusal};
use super::config::Config;
use super::tokenizer::Tokenizer;
use super::weights::{Matrix, Weights};
use crate::gguf::Gguf;
use crate::tensor::Store;

/// The network of a model.
pub struct Network {
    config: Config,
    tokenizer: Tokenizer,
}

impl Network {
    /// Judges what a GGUF says of its network.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] for a model that this runtime has no network for, [`Refusal::Invalid`] for one that it
    /// knows and that contradicts itself.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, Refusal> {
        let bert = Bert::from_gguf(gguf)?;
        let tokenizer = Tokenizer::from_gguf(gguf).map_err(Refusal::Invalid)?;
        let numbers = &bert.hyperparameters;
        let config = Config {
            blocks: numbers.blocks as usize,
            embedding: numbers.embedding as usize,
            feed_forward: numbers.feed_forward as usize,
            heads: numbers.heads as usize,
            context: numbers.context as usize,
            epsilon: numbers.epsilon,
            pooling: numbers.pooling,
            normalize: true,
        };
        Ok(Network { config, tokenizer })
    }

    /// The numbers of a pass whose embeddings are scaled to length one, or are not.
    pub fn config(&self, normalize: bool) -> Config {
        Config { normalize, ..self.config }
    }

    /// Token ids of a text, cut at the model's context.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, self.config.context)
    }

    /// The weights as they are in the store now.
    ///
    /// # Errors
    /// The name of a tensor that is not there, which the judgement has ruled out.
    pub fn weights<'a>(&self, store: &'a Store) -> Result<Weights<'a>, String> {
        Weights::by_name(&self.config, &|name| {
            let tensor = store.find(name)?;
            let columns = *tensor.shape.first()? as usize;
            let rows = tensor.shape.iter().skip(1).product::<u64>() as usize;
            Matrix::new(tensor.tensor_type, rows, columns, store.bytes(tensor)?)
        })
    }
}
