//! The open batch: changes that are made in memory and appended to the log, and that become permanent together.

use super::{Lineage, LineageError};
use crate::journal::device::failed;
use crate::journal::device::planted::{self, Bug};
use crate::journal::JournalError;
use crate::tensor::memory::BeforeImages;

/// The state before the open batch, to which a failure returns.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchStart {
    generation: u64,
    promoted: u64,
    lease_until_us: Option<u64>,
    /// Generations and images in the log.
    made: usize,
    images: usize,
    /// Ids that were ever added.
    ids: u64,
}

impl Lineage {
    /// Notes the state before the open batch, unless it is open already. It must be called before that state changes.
    pub(super) fn open_batch(&mut self) {
        let start = BatchStart {
            generation: self.generation,
            promoted: self.promoted,
            lease_until_us: self.lease_until_us,
            made: self.made.len(),
            images: self.images.len(),
            ids: self.ids.added(),
        };
        self.batch.get_or_insert(start);
    }

    /// Makes the changes of the open batch permanent: on stable storage, if the log is [durable](Lineage::durable).
    ///
    /// # Errors
    /// [`LineageError::Journal`]; the weights are then those before the batch.
    pub fn commit(&mut self) -> Result<(), LineageError> {
        self.require_log()?;
        if self.commit_batch()? {
            self.compact();
        }
        Ok(())
    }

    /// The same without a look at the size of the log. Returns whether a batch was open.
    pub(super) fn commit_batch(&mut self) -> Result<bool, LineageError> {
        if self.batch.is_none() {
            return Ok(false);
        }
        let committed = self.log.as_mut().map_or(Ok(()), |log| log.commit());
        committed.map_err(|error| self.fail(error))?;
        self.batch = None;
        self.settle();
        Ok(true)
    }

    /// Notes that all generations are permanent. The memory of the before-images that are too old is used again.
    pub(super) fn settle(&mut self) {
        for old in self.undo.settle(self.generation) {
            self.store.memory_mut().reuse(old);
        }
    }

    /// Takes the open batch back and stops using the log: a later write that succeeds would hide the loss.
    pub(super) fn fail(&mut self, error: JournalError) -> LineageError {
        if let Some(log) = &mut self.log {
            log.abort();
            self.lost_from = log.durable().then(|| log.next_sequence());
        }
        if let Some(start) = self.batch.take().filter(|_| !planted::is(Bug::ApplyBeforeJournal)) {
            for before in self.undo.take_above(start.generation) {
                self.put_back(&before);
            }
            (self.generation, self.promoted) = (start.generation, start.promoted);
            self.lease_until_us = start.lease_until_us;
            self.made.truncate(start.made);
            self.images.truncate(start.images);
            self.ids.remove_since(start.ids);
        }
        let text = match self.lost_from {
            Some(_) if error.is_for_good() => error.text,
            Some(_) => failed(&error.text),
            None => format!("the journal cannot be written: {}", error.text),
        };
        self.refuse(JournalError { text, ..error })
    }

    /// Stops using a log whose changes would not be found at the next start. Returns whether it is one.
    pub fn refuse_lost_log(&mut self) -> bool {
        let lost = self.log.as_ref().filter(|_| self.refusal.is_none()).and_then(|log| log.require_kept().err());
        lost.map(|error| self.fail(error)).is_some()
    }

    pub(super) fn put_back(&mut self, before: &BeforeImages) {
        let mut change = self.store.memory_mut().begin();
        before.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
        change.commit();
        self.store.drop_digests(before.iter().map(|(page, _)| page));
    }
}
