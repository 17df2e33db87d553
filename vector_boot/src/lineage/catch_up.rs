//! Following another process that writes the same log.

use super::rebuild::{damaged, failed_before, inexact, invalid_entry};
use super::{Lineage, LineageError};
use crate::journal::{EntryHead, EntryKind, JournalError, JournalLoss};
use crate::mutation::apply::apply;
use crate::tensor::memory::BeforeImages;

impl Lineage {
    /// Makes the changes that another process has appended to the log since it was read. If the log has failed there, no change
    /// can be made here either.
    ///
    /// # Errors
    /// [`LineageError::Journal`]; no change can be made any more then, and the weights are those of some generation.
    pub fn catch_up(&mut self, loss: Option<JournalLoss>, progress: &dyn Fn()) -> Result<(), LineageError> {
        self.require_log()?;
        self.follow(loss.map(|loss| loss.from), progress).map_err(|error| match error {
            LineageError::Journal(why) => self.refuse(why),
            LineageError::UnknownGeneration(text) => self.refuse(damaged(&text)),
        })?;
        if let Some(JournalLoss { from, reason }) = loss {
            self.lost_from = Some(from);
            self.refuse(failed_before(reason, true));
        }
        Ok(())
    }

    /// Makes the log this process's to write: the other one has stopped.
    ///
    /// # Errors
    /// [`LineageError::Journal`]; no change can be made any more then.
    pub fn take_over(&mut self) -> Result<(), LineageError> {
        if self.require_log().is_err() {
            return Ok(());
        }
        let taken = self.log.as_mut().map_or(Ok(()), |log| log.take_over());
        taken.map_err(|error| self.fail(error))
    }

    fn follow(&mut self, lost_from: Option<u64>, progress: &dyn Fn()) -> Result<(), LineageError> {
        let (mut fresh, next) = (Vec::<(u64, EntryHead)>::new(), self.next_sequence());
        if let Some(log) = &mut self.log {
            let mut note = |offset, head: &EntryHead| {
                if lost_from.is_none_or(|lost| head.sequence < lost) {
                    fresh.push((offset, *head));
                }
                Ok(())
            };
            log.read_on(&mut note).map_err(LineageError::Journal)?;
        }
        let newest = fresh.first().copied().zip(fresh.last().copied());
        if let Some((first, (_, last))) = newest.filter(|(first, _)| first.1.sequence != next) {
            // Entries were removed before they were read here.
            self.forget_all();
            fresh.iter().try_for_each(|(offset, head)| self.add_head(*offset, head)).map_err(LineageError::Journal)?;
            return self.adopt(first, last, last.generation, progress).map_err(LineageError::Journal);
        }
        for (offset, head) in fresh {
            self.follow_entry(offset, &head, progress)?;
            progress();
        }
        // The other process may have removed old entries.
        let first = self.images.iter().find(|image| image.offset >= self.log_start()).copied();
        if let Some(image) = first.filter(|_| self.log_start() > self.first_entry) {
            self.forget_before(image);
        }
        Ok(())
    }

    fn follow_entry(&mut self, offset: u64, head: &EntryHead, progress: &dyn Fn()) -> Result<(), LineageError> {
        let before = match head.kind {
            EntryKind::Mutate => Some(self.repeat(offset, progress).map_err(LineageError::Journal)?),
            EntryKind::Rollback | EntryKind::LeaseExpired => {
                let unknown = || LineageError::UnknownGeneration(format!("generation {} is not kept", head.target));
                Some(self.restore(head.target, progress)?.ok_or_else(unknown)?)
            }
            EntryKind::Promote | EntryKind::Renew | EntryKind::Image => None,
        };
        if self.store.memory().fingerprint() != head.fingerprint {
            return Err(LineageError::Journal(inexact(head.generation)));
        }
        self.add_head(offset, head).map_err(LineageError::Journal)?;
        (self.generation, self.promoted) = (head.generation, head.promoted);
        self.lease_until_us = Some(head.lease_until_us).filter(|until| *until != 0);
        if let Some(before) = before {
            self.store.drop_digests(before.iter().map(|(page, _)| page));
            self.undo.push(self.generation, before);
            self.settle();
        }
        Ok(())
    }

    /// Makes the mutation at this offset again. Returns the pages as they were.
    fn repeat(&mut self, offset: u64, progress: &dyn Fn()) -> Result<BeforeImages, JournalError> {
        let payload = self.entry(offset)?.payload;
        let plan = self.plan_again(&payload)?;
        let mut change = self.store.memory_mut().begin();
        apply(&plan, &mut change, progress).map_err(|_| invalid_entry())?;
        Ok(change.commit())
    }
}
