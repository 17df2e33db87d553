//! The neural runtime: a bert that computes embeddings of texts. Its weights may change between two passes.

pub mod architecture;
mod attention;
pub mod config;
mod error;
mod forward;
pub mod kernels;
pub mod lanes;
mod linear;
pub mod network;
mod pass;
mod pool;
mod pooling;
mod residual;
mod scratch;
mod threads;
pub mod tokenizer;
pub mod weights;

pub use config::{BertConfig, Pooling};
pub use error::{ForwardError, Layer, NetworkError};
pub use forward::Workspace;
pub use kernels::Variant;
pub use pool::ThreadPool;

#[cfg(test)]
mod tests;
