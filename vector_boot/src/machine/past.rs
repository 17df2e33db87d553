//! Older generations that are read while the machine goes on: the newest one asked for is kept in memory for a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Machine;
use crate::lineage::{Lineage, PastError};
use crate::protocol::{code, RequestError};
use crate::sys::monotonic_us;
use crate::tensor::memory::PagedMemory;

/// How long the contents of an older generation are kept after their last use.
const IDLE_US: u64 = 10_000_000;

/// The contents of an older generation.
pub struct Past {
    generation: u64,
    /// The contents of all tensors.
    pub memory: PagedMemory,
    /// SHA-256 of tensors by index, as far as they are known.
    digests: RefCell<HashMap<usize, [u8; 32]>>,
    used_us: u64,
}

impl Past {
    /// The SHA-256 of the tensor at this index, computed by `compute` the first time.
    pub fn sha256(&self, index: usize, compute: impl FnOnce() -> [u8; 32]) -> [u8; 32] {
        *self.digests.borrow_mut().entry(index).or_insert_with(compute)
    }
}

/// The one that is kept, if any.
pub type PastSlot = Arc<Mutex<Option<Past>>>;

impl Machine {
    /// Calls `look` with the contents of generation `to`, which may take long to rebuild.
    ///
    /// # Errors
    /// 1014 if it is not kept, 1015 if the journal is damaged, 1017 if there is not enough memory.
    pub(super) fn with_past<T>(
        &self,
        lineage: &Lineage,
        to: u64,
        look: impl FnOnce(&Past) -> T,
    ) -> Result<T, RequestError> {
        let mut slot = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|past| past.generation != to) {
            *slot = None; // its memory may be needed
            let vitals = self.vitals();
            let memory = lineage.contents_of(to, &|| vitals.make_progress()).map_err(|error| match error {
                PastError::Lineage(error) => error.into(),
                PastError::Memory(text) => RequestError::new(code::BUSY, text),
            })?;
            *slot = Some(Past { generation: to, memory, digests: RefCell::default(), used_us: 0 });
        }
        match slot.as_mut() {
            Some(past) => {
                let result = look(past);
                past.used_us = monotonic_us();
                Ok(result)
            }
            None => Err(RequestError::new(code::BUSY, "the generation is not in memory")),
        }
    }

    /// Frees the older generation that is kept if nobody has read it for a while; `now`: in any case.
    pub fn release_past(&self, now: bool) {
        // A request that holds it uses it.
        let Ok(mut slot) = self.past.try_lock() else { return };
        let idle = |past: &Past| monotonic_us().saturating_sub(past.used_us) > IDLE_US;
        if slot.as_ref().is_some_and(|past| now || idle(past)) {
            *slot = None;
        }
    }
}
