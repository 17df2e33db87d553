//! The neural runtime: what a model is, and how text becomes numbers.

pub mod architecture;
pub mod tokenizer;
