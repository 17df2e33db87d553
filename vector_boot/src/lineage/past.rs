//! The contents of an older generation, beside the weights and without a change to them.

use super::rebuild::inexact;
use super::{Lineage, LineageError};
use crate::tensor::memory::{PagedMemory, PAGE};

/// Memory that stays free for everything else.
const RESERVE_BYTES: u64 = 8 << 20;

/// Why the contents of a generation cannot be shown.
#[derive(Debug)]
pub enum PastError {
    /// There is no such generation, or the journal does not allow it.
    Lineage(LineageError),
    /// They would not fit the memory; one sentence.
    Memory(String),
}

impl Lineage {
    /// The contents of generation `to` in memory of their own. `progress` is called regularly.
    ///
    /// # Errors
    /// [`PastError`].
    pub fn contents_of(&self, to: u64, progress: &dyn Fn()) -> Result<PagedMemory, PastError> {
        let unknown = |text| PastError::Lineage(LineageError::UnknownGeneration(text));
        if to > self.generation {
            return Err(unknown(format!("there is no generation {to} yet: the newest is {}", self.generation)));
        }
        let journal = |why| PastError::Lineage(LineageError::Journal(why));
        let base = || self.base_memory().map_err(journal);
        let dirty_bytes = u64::from(self.store.memory().dirty_count()) * PAGE as u64;
        let memory = if to == 0 {
            base()? // no page of it is copied, so it takes no memory
        } else if self.undo.reaches(to) {
            self.require_memory_for_past(to, dirty_bytes)?;
            let (mut memory, current) = (base()?, self.store.memory());
            current.dirty_pages().for_each(|page| _ = memory.restore_page(page, current.page(page)));
            self.undo.restore_in(to, &mut memory);
            memory
        } else {
            // A rebuild may hold an entry of the log, too.
            self.require_memory_for_past(to, 2 * dirty_bytes)?;
            let rebuilt = self.rebuild(to, progress).map_err(journal)?;
            rebuilt.ok_or_else(|| unknown(format!("generation {to} is no longer kept")))?
        };
        match self.fingerprint_of(to) {
            Some(expected) if expected != memory.fingerprint() => Err(journal(inexact(to))),
            _ => Ok(memory),
        }
    }

    fn require_memory_for_past(&self, to: u64, bytes: u64) -> Result<(), PastError> {
        let available = (self.budget.available)();
        if available == 0 || bytes + RESERVE_BYTES < available {
            return Ok(());
        }
        let text =
            format!("generation {to} may need {bytes} bytes of memory beside the weights, {available} are available");
        Err(PastError::Memory(text))
    }
}
