//! Writes greetings, answers and events as the bytes that go out.

use serde_json::{json, Value};

use super::{LINE_LIMIT, VERSION};

/// A refusal, as the other side sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Code of the protocol's table.
    pub code: i64,
    /// One sentence for a person.
    pub message: String,
    /// Facts for a program.
    pub data: Option<Value>,
}

impl Failure {
    /// A refusal without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), data: None }
    }

    /// The same with data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The line that answers request `id`. The sentence is cut: it may quote what the other side sent.
    pub fn to_bytes(&self, id: &Value) -> Vec<u8> {
        const LONGEST: usize = 400;
        let message: String = self.message.chars().take(LONGEST).collect();
        let mut error = json!({"code": self.code, "message": message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        line(&json!({"jsonrpc": "2.0", "id": id, "error": error}))
    }
}

/// The answer to a request that was cancelled, which the protocol's table has no code for.
pub fn cancelled() -> Failure {
    Failure::new(-32800, "the request was cancelled")
}

/// An answer, with the blob that follows its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The result.
    pub result: Value,
    /// Raw bytes behind the line; none are sent when it is empty.
    pub blob: Vec<u8>,
}

impl From<Value> for Reply {
    fn from(result: Value) -> Self {
        Reply { result, blob: Vec::new() }
    }
}

impl Reply {
    /// The line that answers request `id`, and the blob.
    pub fn to_bytes(&self, id: &Value) -> Vec<u8> {
        let mut answer = json!({"jsonrpc": "2.0", "id": id, "result": self.result});
        if !self.blob.is_empty() {
            answer["blob"] = json!({"bytes": self.blob.len(), "crc32c": format!("{:08x}", crc32c::crc32c(&self.blob))});
        }
        let mut bytes = line(&answer);
        if bytes.len() > LINE_LIMIT {
            return Failure::new(-32602, "the answer does not fit a line: ask for less").to_bytes(id);
        }
        bytes.extend_from_slice(&self.blob);
        bytes
    }
}

/// The line that opens a connection.
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
