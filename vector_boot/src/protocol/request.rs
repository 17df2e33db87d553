//! Checks that a message is a request.

use std::sync::OnceLock;

use serde_json::Value;

use super::{code, Blob, Message, Method, Params, RequestError, SignedCall, BLOB_LIMIT, ID_LIMIT};

/// A request for a known method. Its parameters are not checked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// A string or an integer; it is repeated in the reply.
    pub id: Value,
    /// The method.
    pub method: Method,
    /// Its parameters.
    pub params: Params,
    /// Its blob.
    pub blob: Blob,
    /// What is known of its signature, if it came inside `signed`.
    pub seal: Option<Seal>,
    /// Of a `signed` request: what it asks for, once its signature was looked at; `None` if that is wrong.
    pub opened: OnceLock<Option<Box<SignedCall>>>,
}

/// The signature of a request, which was verified: it covers the machine, the method and the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// SHA-256 of the blob that was signed; `None` if it was signed without one.
    pub blob_sha256: Option<[u8; 32]>,
}

impl Request {
    /// A request with nothing known of a signature.
    pub fn new(id: Value, method: Method, params: Params, blob: Blob) -> Self {
        Request { id, method, params, blob, seal: None, opened: OnceLock::new() }
    }

    /// Refuses a blob, for a method that takes none. Call it after the parameters were checked.
    ///
    /// # Errors
    /// 1012 or 1011 for a blob that could not be read, -32602 for any other.
    pub fn no_blob(&self) -> Result<(), RequestError> {
        self.sound_blob()?;
        match self.blob {
            Blob::None => Ok(()),
            _ => {
                let text = format!("{} takes no blob", self.method.name());
                Err(RequestError::new(code::INVALID_PARAMS, text))
            }
        }
    }

    /// Refuses a blob that could not be read. Call it after the parameters were checked.
    ///
    /// # Errors
    /// 1012 if it was too large, 1011 if it was damaged.
    pub fn sound_blob(&self) -> Result<(), RequestError> {
        let refuse = |code, text: String| Err(RequestError::new(code, text));
        match self.blob {
            Blob::TooLarge => refuse(code::UNUSABLE_BLOB, format!("the blob is larger than {BLOB_LIMIT} bytes")),
            Blob::ChecksumWrong => {
                refuse(code::DAMAGED_BLOB, "the CRC-32C of the blob is not the announced one".into())
            }
            Blob::Stalled => {
                refuse(code::DAMAGED_BLOB, "the blob is incomplete: no byte of it came for two seconds".into())
            }
            Blob::None | Blob::Bytes(_) | Blob::Upload(_) | Blob::Malformed => Ok(()),
        }
    }
}

/// A message that was checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    /// A request, to be answered.
    Request(Request),
    /// The notification `bye`: the client knows that the machine stops.
    Bye,
}

impl Envelope {
    /// Checks a message.
    ///
    /// # Errors
    /// -32600, -32601 or -32602, with the id to answer.
    pub fn open(message: Message) -> Result<Self, InvalidRequestError> {
        let Message { mut members, blob } = message;
        let id = match members.remove("id") {
            None => None,
            Some(id) if is_request_id(&id) => Some(id),
            Some(_) => return Err(refuse(None, &format!("the id must be {REQUEST_ID}"))),
        };
        if members.remove("jsonrpc") != Some(Value::from("2.0")) {
            return Err(refuse(id, "jsonrpc must be \"2.0\""));
        }
        let Some(Value::String(method)) = members.remove("method") else {
            return Err(refuse(id, "method must be a string"));
        };
        if blob == Blob::Malformed {
            let text = "blob must be {bytes: 1 to 1048576, crc32c: 8 hex digits} or {upload: 32 hex digits}";
            return Err(refuse(id, text));
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
        let Some(method) = Method::parse(&method) else {
            let error = RequestError::new(code::UNKNOWN_METHOD, format!("there is no method {method:?}"));
            return Err(InvalidRequestError { id, error });
        };
        match params {
            Value::Object(params) => {
                let params = Params::new(params);
                Ok(Envelope::Request(Request::new(id, method, params, blob)))
            }
            _ => {
                let error = RequestError::new(code::INVALID_PARAMS, "params must be an object");
                Err(InvalidRequestError { id, error })
            }
        }
    }
}

/// A message that is not a request.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidRequestError {
    /// The id to answer; null if the message has no valid one.
    pub id: Value,
    /// What is wrong with it.
    pub error: RequestError,
}

/// What the id of a request must be.
pub(super) const REQUEST_ID: &str = "an integer or a string of at most 256 bytes";

/// Whether a value can be the id of a request.
pub(super) fn is_request_id(id: &Value) -> bool {
    match id {
        Value::String(id) => id.len() <= ID_LIMIT,
        id => id.is_i64() || id.is_u64(),
    }
}

fn refuse(id: Option<Value>, text: &str) -> InvalidRequestError {
    InvalidRequestError { id: id.unwrap_or(Value::Null), error: RequestError::new(code::INVALID_REQUEST, text) }
}
