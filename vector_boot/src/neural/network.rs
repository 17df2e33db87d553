//! The network of a model: its tokenizer and its hyperparameters. The weights stay in the store and are borrowed for
//! each pass.

use super::architecture;
use super::config::BertConfig;
use super::error::NetworkError;
use super::tokenizer::{Encoding, Tokenizer};
use super::weights::{Matrix, Weights};
use crate::gguf::Gguf;
use crate::tensor::Store;

/// The network of a model.
pub struct Network {
    config: BertConfig,
    tokenizer: Tokenizer,
}

impl Network {
    /// Checks what a GGUF says about its network.
    ///
    /// # Errors
    /// [`NetworkError::Unsupported`] for a model that this runtime has no network for, [`NetworkError::Invalid`] for one of
    /// a known architecture that contradicts itself.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, NetworkError> {
        let config = architecture::check(gguf)?.config();
        Ok(Network { config, tokenizer: Tokenizer::from_gguf(gguf)? })
    }

    /// The hyperparameters of a GGUF's network, checked as by [`Network::from_gguf`] but without building the tokenizer:
    /// see [`Tokenizer::check`] for the difference.
    ///
    /// # Errors
    /// As [`Network::from_gguf`].
    pub fn check(gguf: &Gguf<'_>) -> Result<BertConfig, NetworkError> {
        let config = architecture::check(gguf)?.config();
        Tokenizer::check(gguf)?;
        Ok(config)
    }

    /// The hyperparameters of a pass whose embeddings are scaled to length one, or are not.
    pub fn config(&self, normalize: bool) -> BertConfig {
        BertConfig { normalize, ..self.config }
    }

    /// Token ids of a text, cut at the most tokens that the model takes.
    pub fn encode(&self, text: &str) -> Encoding {
        self.tokenizer.encode(text, self.config.context)
    }

    /// The weights as they are in the store now.
    ///
    /// # Errors
    /// The name of a tensor that is absent. [`Network::from_gguf`] has made sure that there is none.
    pub fn weights<'a>(&self, store: &'a Store) -> Result<Weights<'a>, String> {
        Weights::by_name(&self.config, &|name| {
            let tensor = store.find(name)?;
            let columns = *tensor.shape.first()? as usize;
            let rows = tensor.shape.iter().skip(1).product::<u64>() as usize;
            Matrix::new(tensor.tensor_type, rows, columns, store.bytes(tensor)?)
        })
    }
}
