//! The addresses of the tensors.

use serde_json::{json, Value};

use super::instance::Instance;
use crate::tensor::{Store, Tensor};

/// Address of a tensor: first the model's file, then the machine's tensors that the file lacks, then the shared words.
fn offset(store: &Store, tensor: &Tensor) -> usize {
    tensor.address().unwrap_or_else(|| store.memory().end() + tensor.shared_at().unwrap_or(0) * 4)
}

impl Instance {
    /// All tensors with their addresses, as JSON.
    ///
    /// # Errors
    /// If there is no model.
    pub fn layout(&self) -> Result<Vec<u8>, String> {
        let describe = |store: &Store, tensor: &Tensor| {
            json!({
                "name": &*tensor.name,
                "type": tensor.tensor_type.name(),
                "shape": &*tensor.shape,
                "offset": offset(store, tensor),
                "bytes": tensor.bytes,
                "protected": tensor.protected,
            })
        };
        let all = |store: &Store| store.tensors().iter().map(|tensor| describe(store, tensor)).collect::<Value>();
        Ok(self.machine.with_store(all).map_err(|error| error.message)?.to_string().into_bytes())
    }

    /// The start of a tensor's bytes in memory, and their number.
    ///
    /// # Errors
    /// If there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<(*const u8, usize), String> {
        self.end_trial_if_idle();
        let find = |store: &Store| {
            let tensor = store.find(name)?;
            let start = match store.bytes(tensor) {
                Some(bytes) => bytes.as_ptr(),
                None => self.shared.words().get(tensor.shared_at()?..)?.as_ptr().cast(),
            };
            Some((start, tensor.bytes as usize))
        };
        let found = self.machine.with_store(find).map_err(|error| error.message)?;
        found.ok_or_else(|| format!("there is no tensor {name:?}"))
    }
}
