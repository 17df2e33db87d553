//! The neural runtime: a bert that turns token ids into embeddings, with weights that may change between passes.

mod attention;
pub mod config;
mod error;
mod forward;
pub mod kernels;
mod lanes;
mod linear;
mod pool;
mod pooling;
mod residual;
mod threads;
pub mod weights;

pub use config::{Config, Pooling};
pub use error::{ForwardError, Layer};
pub use forward::Workspace;
pub use kernels::Variant;
pub use pool::ThreadPool;

#[cfg(test)]
mod tests;
