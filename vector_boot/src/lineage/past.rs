//! The contents of an older generation, beside the weights and without a change to them.

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
        let from_images = self.undo.reaches(to);
        // A rebuild holds an entry of the log and the pages before each of its edits, too.
        let copies = if from_images { 1 } else { 3 };
        self.require_memory_for_past(to, u64::from(self.store.memory().dirty_count()) * PAGE as u64 * copies)?;
        let memory = match from_images {
            true => {
                let base = self.store.base_memory();
                let mut memory =
                    base.map_err(|error| journal(format!("the file of the model cannot be mapped: {error}")))?;
                let current = self.store.memory();
                current.dirty_pages().for_each(|page| _ = memory.restore_page(page, current.page(page)));
                self.undo.restore_in(to, &mut memory);
                memory
            }
            false => self
                .rebuild(to, progress)
                .map_err(journal)?
                .ok_or_else(|| unknown(format!("generation {to} is no longer kept")))?,
        };
        match self.fingerprint_of(to) {
            Some(expected) if expected != memory.fingerprint() => {
                Err(journal(format!("generation {to} was not restored exactly: its fingerprint differs")))
            }
            _ => Ok(memory),
        }
    }

    fn require_memory_for_past(&self, to: u64, bytes: u64) -> Result<(), PastError> {
        let available = (self.budget.available)();
        if to == 0 || available == 0 || bytes + RESERVE_BYTES < available {
            return Ok(());
        }
        let text =
            format!("generation {to} may need {bytes} bytes of memory beside the weights, {available} are available");
        Err(PastError::Memory(text))
    }
}
