//! Judges whether a message is a request.

use serde_json::Value;

use super::{Blob, Failure, Message, Params};

/// Bytes of the longest id: it must fit any answer's line beside what is answered.
const ID_LIMIT: usize = 256;

/// A well-formed request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// A string or an integer, given back with the answer.
    pub id: Value,
    /// Name of the method.
    pub method: String,
    /// Its parameters.
    pub params: Params,
    /// What came with it.
    pub blob: Blob,
}

impl Request {
    /// Refuses a blob for a method that takes none. Call it when the parameters have been judged.
    ///
    /// # Errors
    /// 1012, 1011 or -32602.
    pub fn no_blob(&self) -> Result<(), Failure> {
        match self.blob {
            Blob::None => Ok(()),
            Blob::TooLarge => Err(Failure::new(1012, "the blob is larger than 1048576 bytes")),
            Blob::ChecksumWrong => Err(Failure::new(1011, "the blob's CRC-32C is not the announced one")),
            Blob::Stalled => Err(Failure::new(1011, "the blob stalled: no byte for two seconds")),
            Blob::Bytes(_) | Blob::Upload(_) | Blob::Malformed => {
                Err(Failure::new(-32602, format!("{} takes no blob", self.method)))
            }
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    /// To be answered.
    Request(Request),
    /// The host has taken note that the machine stops.
    Bye,
}

impl Envelope {
    /// Judges a message.
    ///
    /// # Errors
    /// The id to answer (null if there is none) and the refusal.
    pub fn open(message: Message) -> Result<Self, (Value, Failure)> {
        let Message { mut members, blob } = message;
        let id = match members.remove("id") {
            None => None,
            Some(Value::String(id)) if id.len() > ID_LIMIT => {
                return Err(refuse(None, "the id is longer than 256 bytes"));
            }
            Some(id) if id.is_string() || id.is_i64() || id.is_u64() => Some(id),
            Some(_) => return Err(refuse(None, "the id must be a string or an integer")),
        };
        if members.remove("jsonrpc") != Some(Value::from("2.0")) {
            return Err(refuse(id, "jsonrpc must be \"2.0\""));
        }
        let Some(Value::String(method)) = members.remove("method") else {
            return Err(refuse(id, "method must be a string"));
        };
        if blob == Blob::Malformed {
            return Err(refuse(id, "blob must be {bytes: 1 to 1048576, crc32c: 8 hex} or {upload: 32 hex}"));
        }
        let params = members.remove("params").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        if let Some(unknown) = members.keys().next() {
            let text = format!("unknown member {unknown:?}: a request has jsonrpc, id, method, params, blob");
            return Err(refuse(id, &text));
        }
        let Some(id) = id else {
            return match method.as_str() {
                "bye" => Ok(Envelope::Bye),
                _ => Err(refuse(None, "notifications other than bye are not supported: send an id")),
            };
        };
        match params {
            Value::Object(params) => Ok(Envelope::Request(Request { id, method, params: Params::new(params), blob })),
            _ => Err((id, Failure::new(-32602, "params must be an object"))),
        }
    }
}

fn refuse(id: Option<Value>, text: &str) -> (Value, Failure) {
    (id.unwrap_or(Value::Null), Failure::new(-32600, text))
}
