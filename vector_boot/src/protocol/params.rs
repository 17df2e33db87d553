//! Reads the members of a JSON object one by one; members that nobody has read are refused at the end.
//!
//! `null` counts as absent everywhere.

use std::fmt;

use serde_json::{Map, Value};

use super::request::{is_request_id, REQUEST_ID};

/// A member that is missing, unknown or of the wrong type: one sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterError(pub String);

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The members that were not read yet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params(Map<String, Value>);

/// The largest integer JSON numbers carry exactly.
const INTEGER_LIMIT: u64 = 1 << 53;

impl Params {
    /// The members of an object, none of them read.
    pub fn new(members: Map<String, Value>) -> Self {
        Params(members)
    }

    /// The members that were not read yet.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// An optional string.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    /// An optional integer from 0 to 2^53.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn integer(&mut self, name: &str) -> Result<Option<u64>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| *number <= INTEGER_LIMIT) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, "an integer from 0 to 2^53")),
            },
        }
    }

    /// The value of a member, which stays unread.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// An optional value of any kind.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// An optional id of a request.
    ///
    /// # Errors
    /// If it cannot be an id.
    pub fn request_id(&mut self, name: &str) -> Result<Option<Value>, ParameterError> {
        match self.take(name) {
            Some(id) if !is_request_id(&id) => Err(wrong(name, REQUEST_ID)),
            id => Ok(id),
        }
    }

    /// An optional number.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(name, "a number")),
        }
    }

    /// Optional bytes as lower-case hex, exactly N of them.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn hex<const N: usize>(&mut self, name: &str) -> Result<Option<[u8; N]>, ParameterError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let bytes = value.as_str().and_then(parse_hex);
        bytes.map(Some).ok_or_else(|| wrong(name, &format!("{} lower-case hex digits", 2 * N)))
    }

    /// All members as one line of JSON, in the order of their names: equal contents give equal lines.
    pub fn canonical(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// An optional boolean.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// An optional list of at most `limit` strings.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn texts(&mut self, name: &str, limit: usize) -> Result<Option<Vec<String>>, ParameterError> {
        let refused = || wrong(name, &format!("a list of at most {limit} strings"));
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() <= limit => {
                let texts = items.into_iter().map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(refused()),
                });
                texts.collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(refused()),
        }
    }

    /// Refuses members that nobody has read: a misspelt option must not be ignored.
    ///
    /// # Errors
    /// Names the first unknown member.
    pub fn finish(self) -> Result<(), ParameterError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ParameterError(format!("unknown parameter {name:?}"))),
        }
    }
}

/// The value of a parameter that must be given.
///
/// # Errors
/// If it is absent.
pub fn required<T>(name: &str, value: Option<T>) -> Result<T, ParameterError> {
    value.ok_or_else(|| ParameterError(format!("parameter {name:?} is missing")))
}

/// N bytes written as lower-case hex.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn wrong(name: &str, expected: &str) -> ParameterError {
    ParameterError(format!("parameter {name:?} must be {expected}"))
}
