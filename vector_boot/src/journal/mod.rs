//! What has happened to the weights: the log that they can be rebuilt from, and the ring of short records beside it.

mod entry;
pub mod log;
pub mod ring;
pub mod storage;

pub use entry::{Content, Entry, Head, Kind, HEAD_BYTES};

#[cfg(test)]
pub use entry::tests as entry_tests;
