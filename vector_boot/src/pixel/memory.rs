//! The memory of a program: what it holds is counted before it is taken.

use super::value::{Shape, Value};
use super::{refuse, Refusal, UNFIT};

/// Counts the bytes of all values that live and of the input buffer.
pub struct Memory {
    used: usize,
    limit: usize,
}

impl Memory {
    /// Nothing used yet.
    pub fn new(limit: usize) -> Self {
        Memory { used: 0, limit }
    }

    /// Takes this many bytes.
    ///
    /// # Errors
    /// If that would pass the limit.
    pub fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.used.checked_add(bytes).filter(|used| *used <= self.limit) {
            Some(used) => self.used = used,
            None => return refuse(UNFIT, format!("the stack would pass {} bytes", self.limit)),
        }
        Ok(())
    }

    /// Gives back bytes that were taken.
    pub fn give_back(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    /// A value of zeros.
    ///
    /// # Errors
    /// If it has no elements or passes the limit, or the machine has no memory.
    pub fn value(&mut self, shape: Shape) -> Result<Value, Refusal> {
        let Some(elements) = shape.elements().filter(|elements| *elements <= usize::MAX / 4) else {
            return refuse(UNFIT, format!("a value of {shape} passes the stack"));
        };
        if elements == 0 {
            return refuse(UNFIT, "a value has no elements");
        }
        self.take(elements * 4)?;
        let mut data = Vec::new();
        if data.try_reserve_exact(elements).is_err() {
            self.give_back(elements * 4);
            return refuse(UNFIT, format!("the machine has no memory for a value of {shape}"));
        }
        data.resize(elements, 0.0);
        Ok(Value { shape, data })
    }

    /// A copy.
    ///
    /// # Errors
    /// As [`Memory::value`].
    pub fn copy(&mut self, value: &Value) -> Result<Value, Refusal> {
        let mut copy = self.value(value.shape)?;
        copy.data.copy_from_slice(&value.data);
        Ok(copy)
    }

    /// Ends a value.
    pub fn drop(&mut self, value: Value) {
        self.give_back(value.data.len() * 4);
    }
}
