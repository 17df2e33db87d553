//! Takes the parameters of a request apart; what is left over is refused.

use serde_json::{Map, Value};

use super::Failure;

/// The parameters not yet taken.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params(Map<String, Value>);

/// The largest integer JSON numbers carry exactly.
const INTEGER_LIMIT: u64 = 1 << 53;

impl Params {
    /// Wraps the members of `params`.
    pub fn new(members: Map<String, Value>) -> Self {
        Params(members)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// An optional text.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    /// An optional integer from 0 to 2^53.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn integer(&mut self, name: &str) -> Result<Option<u64>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| *number <= INTEGER_LIMIT) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, "an integer from 0 to 2^53")),
            },
        }
    }

    /// A look at a member that is left where it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// An optional value of any kind.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// An optional number.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(name, "a number")),
        }
    }

    /// Optional bytes as lower-case hex, exactly N of them.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn hex<const N: usize>(&mut self, name: &str) -> Result<Option<[u8; N]>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let bytes = value.as_str().and_then(parse_hex);
        bytes.map(Some).ok_or_else(|| wrong(name, &format!("{} lower-case hex digits", 2 * N)))
    }

    /// The parameters as one line of JSON: equal contents give equal lines.
    pub fn canonical(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// An optional truth value.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// An optional list of at most `limit` texts.
    ///
    /// # Errors
    /// -32602 if it is something else.
    pub fn texts(&mut self, name: &str, limit: usize) -> Result<Option<Vec<String>>, Failure> {
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

    /// Refuses what nobody took: a misspelt option must not be ignored.
    ///
    /// # Errors
    /// -32602 naming the first unknown member.
    pub fn finish(self) -> Result<(), Failure> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Failure::new(-32602, format!("unknown parameter {name:?}"))),
        }
    }
}

/// -32602 for a parameter that is not given though it must be.
pub fn required<T>(name: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::new(-32602, format!("parameter {name:?} is missing")))
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

fn wrong(name: &str, expected: &str) -> Failure {
    Failure::new(-32602, format!("parameter {name:?} must be {expected}"))
}
