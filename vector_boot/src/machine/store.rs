//! Access to the tensors in memory, for the C library.

use std::os::fd::BorrowedFd;

use super::Machine;
use crate::protocol::RequestError;
use crate::tensor::Store;

impl Machine {
    /// This machine in emergency mode: it no longer has weights; `why` is the reason.
    pub fn in_emergency(&self, why: &str) -> Self {
        Machine { lineage: None, emergency: Some(why.into()), ..self.clone() }
    }

    /// Calls `look` with the tensors, which do not change during the call.
    ///
    /// # Errors
    /// 1016 with the reason of the emergency.
    pub fn with_store<T>(&self, look: impl FnOnce(&Store) -> T) -> Result<T, RequestError> {
        Ok(look(self.lineage()?.store()))
    }

    /// Moves the tensors to this memory file, each at its address, so that other processes can map them.
    ///
    /// # Errors
    /// One sentence that says why it fails.
    pub fn share_tensors(&self, file: BorrowedFd<'_>) -> Result<(), String> {
        let mut lineage = self.lineage_mut().map_err(|error| error.message)?;
        lineage.store_mut().share(file).map_err(|error| format!("the weights cannot be shared: {error}"))
    }
}
