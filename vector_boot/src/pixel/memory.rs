//! The memory of a program, which is limited: bytes are counted before they are allocated.

use super::value::{Shape, StackValue};
use super::{refuse, PixelError, PixelErrorKind};

/// Counts the bytes of all values and of the input buffer.
pub struct StackMemory {
    used: usize,
    limit: usize,
}

impl StackMemory {
    /// Nothing used yet.
    pub fn new(limit: usize) -> Self {
        StackMemory { used: 0, limit }
    }

    /// Counts this many bytes.
    ///
    /// # Errors
    /// If that would exceed the limit.
    pub fn take(&mut self, bytes: usize) -> Result<(), PixelError> {
        match self.used.checked_add(bytes).filter(|used| *used <= self.limit) {
            Some(used) => self.used = used,
            None => return refuse(PixelErrorKind::Mismatch, format!("the stack would exceed {} bytes", self.limit)),
        }
        Ok(())
    }

    /// Counts bytes as free again.
    pub fn give_back(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    /// A value of zeros.
    ///
    /// # Errors
    /// If it has no elements, exceeds the limit, or there is no memory for it.
    pub fn value(&mut self, shape: Shape) -> Result<StackValue, PixelError> {
        let Some(elements) = shape.elements().filter(|elements| *elements <= usize::MAX / 4) else {
            return refuse(PixelErrorKind::Mismatch, format!("a value of {shape} is larger than the stack"));
        };
        if elements == 0 {
            return refuse(PixelErrorKind::Mismatch, "a value has no elements");
        }
        self.take(elements * 4)?;
        let mut data = Vec::new();
        if data.try_reserve_exact(elements).is_err() {
            self.give_back(elements * 4);
            return refuse(PixelErrorKind::Mismatch, format!("the machine has no memory for a value of {shape}"));
        }
        data.resize(elements, 0.0);
        Ok(StackValue { shape, data })
    }

    /// A copy.
    ///
    /// # Errors
    /// As [`StackMemory::value`].
    pub fn copy(&mut self, value: &StackValue) -> Result<StackValue, PixelError> {
        let mut copy = self.value(value.shape)?;
        copy.data.copy_from_slice(&value.data);
        Ok(copy)
    }

    /// Frees a value.
    pub fn drop(&mut self, value: StackValue) {
        self.give_back(value.data.len() * 4);
    }
}
