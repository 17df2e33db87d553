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

fn wrong(name: &str, expected: &str) -> Failure {
    Failure::new(-32602, format!("parameter {name:?} must be {expected}"))
}
