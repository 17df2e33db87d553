//! Encodes greetings, replies and events as the bytes that are sent.

use serde_json::{json, Value};

use super::{code, ParameterError, ID_LIMIT, LINE_LIMIT, VERSION};

/// Characters of the longest message of an error: it may quote what the client sent.
const MESSAGE_LIMIT: usize = 400;

/// Why a request is refused, as the client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestError {
    /// A constant of [`code`].
    pub code: i64,
    /// One sentence for a person.
    pub message: String,
    /// Facts for a program, such as `retry_ms`.
    pub data: Option<Value>,
}

impl RequestError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        RequestError { code, message: message.into(), data: None }
    }

    /// The same error with data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The line that answers request `id`. The message is cut after [`MESSAGE_LIMIT`] characters.
    pub fn to_bytes(&self, id: &Value) -> Vec<u8> {
        let message: String = self.message.chars().take(MESSAGE_LIMIT).collect();
        let mut error = json!({"code": self.code, "message": message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        line(&json!({"jsonrpc": "2.0", "id": id, "error": error}))
    }
}

impl From<ParameterError> for RequestError {
    fn from(error: ParameterError) -> Self {
        RequestError::new(code::INVALID_PARAMS, error.0)
    }
}

/// The error that answers a cancelled request.
pub fn cancelled() -> RequestError {
    RequestError::new(code::CANCELLED, "the request was cancelled")
}

/// The result of a request, and the blob that follows its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The member `result`.
    pub result: Value,
    /// The bytes of the blob; empty for a reply without a blob.
    pub blob: Vec<u8>,
}

impl From<Value> for Reply {
    fn from(result: Value) -> Self {
        Reply { result, blob: Vec::new() }
    }
}

impl Reply {
    /// Whether the line fits whatever the id of the request is, so that every repetition of the request fits as well.
    pub fn fits_a_line(&self) -> bool {
        // As text every control character takes six bytes, more than any other byte of an id.
        self.line(&"\u{1}".repeat(ID_LIMIT).into()).len() <= LINE_LIMIT
    }

    /// The line that answers request `id`, and the blob. A result that does not fit a line is replaced by an error.
    pub fn to_bytes(&self, id: &Value) -> Vec<u8> {
        let mut bytes = self.line(id);
        if bytes.len() > LINE_LIMIT {
            return RequestError::new(code::INVALID_PARAMS, "the reply does not fit a line: ask for less").to_bytes(id);
        }
        bytes.extend_from_slice(&self.blob);
        bytes
    }

    fn line(&self, id: &Value) -> Vec<u8> {
        let mut answer = json!({"jsonrpc": "2.0", "id": id, "result": self.result});
        if !self.blob.is_empty() {
            answer["blob"] =
                json!({"bytes": self.blob.len(), "crc32c": format!("{:08x}", crate::crc::crc32c(&self.blob))});
        }
        line(&answer)
    }
}

/// The greeting: the first line on a connection. `build` is the start of the executable's SHA-256 (12 hex digits).
pub fn greeting(build: &str, generation: u64) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    line(&json!({"vector_boot": {"version": version, "protocol": VERSION, "build": build, "generation": generation}}))
}

/// The line of an event.
pub fn event(params: &Value) -> Vec<u8> {
    line(&json!({"jsonrpc": "2.0", "method": "event", "params": params}))
}

fn line(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
