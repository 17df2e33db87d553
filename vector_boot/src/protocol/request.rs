//! Judges whether a message is a request.

use serde_json::Value;

use super::{Blob, Failure, Message, Params};

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
            Some(id) if id.is_string() || id.is_i64() || id.is_u64() => Some(id),
            Some(_) => return Err(refuse(None, "the id must be a string or an integer")),
        };
        if members.remove("jsonrpc") != Some(Value::from("2.0")) {
            return Err(refuse(id, "jsonrpc must be \"2.0\""));
        }
        let Some(Value::String(method)) = members.remove("method") else {
            return Err(refuse(id, "method must be a string"));
        };
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
