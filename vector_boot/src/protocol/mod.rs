//! The evolution protocol, version 1: JSON-RPC 2.0 lines with raw blobs over a byte stream.
//!
//! Pure: bytes, and the time they came, go in; requests and refusals come out.

mod framing;
mod params;
mod reply;
mod request;

pub use framing::{Blob, Framer, Incoming, Message, LINE_LIMIT};
pub use params::{parse_hex, required, Params};
pub use reply::{cancelled, event, greeting, Failure, Reply};
pub use request::{Envelope, Request};

/// Bytes of the largest blob.
pub const BLOB_LIMIT: usize = 1 << 20;
/// Bytes of the largest upload.
pub const UPLOAD_LIMIT: u64 = 1 << 30;
/// Edits in one mutation.
pub const EDIT_LIMIT: usize = 256;
/// Requests that may wait for an answer; then reading pauses.
pub const OUTSTANDING_LIMIT: usize = 64;
/// Version of the protocol.
pub const VERSION: u32 = 1;

#[cfg(test)]
mod tests;
