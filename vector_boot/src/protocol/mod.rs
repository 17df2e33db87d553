//! The evolution protocol, version 1: JSON-RPC 2.0 lines with raw blobs over a byte stream.
//!
//! Pure: the input is bytes and the time they were read; the output is requests and errors. Methods, error codes and
//! limits are generated from `spec/protocol.toml`.

mod base64;
mod framing;
pub mod packing;
mod params;
mod reply;
mod request;
mod signed;
mod tables;

pub use framing::{Blob, BlobBytes, Framer, Incoming, Message};
pub use params::{parse_hex, required, ParameterError, Params};
pub use reply::{cancelled, event, greeting, Reply, RequestError};
pub use request::{Envelope, Request, Seal};
pub use signed::{MutationKey, OpenError, SignedCall, SignedEnvelope, PAYLOAD_TYPE};
pub use tables::*;

/// Version of the protocol.
pub const VERSION: u32 = 1;

#[cfg(test)]
mod tests;
