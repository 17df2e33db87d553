//! The tensors themselves, for a face whose callers look at them in memory.

use std::os::fd::BorrowedFd;

use super::Machine;
use crate::protocol::Failure;
use crate::tensor::Store;

impl Machine {
    /// This machine in emergency mode: it has no weights any more, for the reason `why`.
    pub fn in_emergency(&self, why: &str) -> Self {
        Machine { lineage: None, emergency: Some(why.into()), ..self.clone() }
    }

    /// Lets `look` see the tensors, which do not change meanwhile.
    ///
    /// # Errors
    /// 1016 with the reason of the emergency.
    pub fn with_store<T>(&self, look: impl FnOnce(&Store) -> T) -> Result<T, Failure> {
        Ok(look(self.lineage()?.store()))
    }

    /// Keeps the tensors in this memory file from now on, each at its address, where other processes can map them.
    ///
    /// # Errors
    /// One sentence that says why that cannot be.
    pub fn share_tensors(&self, file: BorrowedFd<'_>) -> Result<(), String> {
        let mut lineage = self.lineage_mut().map_err(|failure| failure.message)?;
        lineage.store_mut().share(file).map_err(|error| format!("the weights cannot be shared: {error}"))
    }
}
