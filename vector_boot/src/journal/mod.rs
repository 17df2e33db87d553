//! The history of the weights: the log from which they can be rebuilt, and the ring of short records.

mod entry;
pub mod log;
pub mod ring;
pub mod storage;

pub use entry::{Content, EntryHead, EntryKind, LogEntry, HEAD_BYTES};

#[cfg(test)]
pub use entry::tests as entry_tests;
