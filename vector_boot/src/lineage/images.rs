//! When an image of the weights is written to the log, and which entries are removed then.

use super::image;
use super::rebuild::{RebuildPath, RebuildStart};
use super::{ChangeRequest, ImageEntry, Lineage, LineageError};
use crate::journal::{EntryKind, JournalError, JournalReason};
use crate::tensor::memory::PAGE;

/// Longest time that a replay from the last image may take; then another image is made.
const REPLAY_BUDGET_US: u64 = 10_000_000;
/// Bytes by which an entry is at most longer than its edits and blob, and by which it makes an image longer at most, beside pages.
const FURTHER_BYTES: u64 = 128;

impl Lineage {
    /// Makes an image of the current weights, from which a rebuild can start. Does nothing during a trial, whose
    /// generations may be discarded, and without the memory for it.
    ///
    /// # Errors
    /// [`LineageError::Journal`].
    pub fn checkpoint(&mut self) -> Result<(), LineageError> {
        self.require_log()?;
        let known = self.images.last().is_some_and(|image| image.generation == self.generation);
        let image_bytes = image::size(self.store.memory(), &self.ids);
        if known || self.lease_until_us.is_some() || !self.can_afford(image_bytes) {
            return Ok(());
        }
        self.append_image()?;
        self.compact();
        Ok(())
    }

    /// Checks that a mutation fits the log which has this many bytes of payload and changes at most `reachable` bytes. Makes room
    /// if it does not.
    ///
    /// # Errors
    /// [`LineageError::Journal`] if there is no room.
    pub fn require_room(&mut self, payload_bytes: u64, reachable: u64) -> Result<(), LineageError> {
        if !self.has_room(payload_bytes, reachable) {
            self.make_room();
        }
        self.require_log()?;
        if self.has_room(payload_bytes, reachable) {
            return Ok(());
        }
        let text = match self.lease_until_us {
            Some(_) => "the journal is full: promote or roll back what is on trial",
            None => "the journal is full: the change does not fit beside an image of the changed weights, so use more memory or a \
                     larger state device",
        };
        Err(LineageError::Journal(JournalError::new(JournalReason::Full, text)))
    }

    fn has_room(&self, payload_bytes: u64, reachable: u64) -> bool {
        let payload_bytes = payload_bytes.saturating_add(FURTHER_BYTES);
        let memory = self.store.memory();
        let fresh = reachable.min(memory.clean_bytes()) / PAGE as u64 * image::PAGE_BYTES;
        let image_bytes = image::size(memory, &self.ids) + fresh + FURTHER_BYTES;
        let fits = self.log.as_ref().is_none_or(|log| payload_bytes <= log.room(image_bytes));
        fits && self.log_bytes() + payload_bytes <= self.budget.log_limit
    }

    /// Makes an image and removes the entries before it, if nothing is on trial and there is memory for it.
    fn make_room(&mut self) {
        let image_bytes = image::size(self.store.memory(), &self.ids);
        if self.lease_until_us.is_none() && self.can_afford(image_bytes) && self.append_image().is_ok() {
            self.remove_old_entries();
        }
    }

    /// Writes an image in a batch of its own.
    fn append_image(&mut self) -> Result<(), LineageError> {
        self.commit_batch()?;
        let image::ImageFront { bytes: front, pages } = image::front(self.store.memory(), &self.ids);
        let (head, sequence) = (self.head(EntryKind::Image, ChangeRequest::default(), 0), self.next_sequence());
        let memory = self.store.memory();
        let mut payload: Vec<&[u8]> = vec![&front];
        payload.extend(pages.iter().map(|page| memory.page(*page)));
        let Some(log) = &mut self.log else { return Err(self.unusable()) };
        let written = log.append(head, &payload).and_then(|offset| log.commit().map(|()| offset));
        let offset = written.map_err(|error| self.fail(error))?;
        self.images.push(ImageEntry { generation: self.generation, offset, sequence });
        self.replay_cost_us = 0;
        Ok(())
    }

    /// Makes an image if a replay would take long, and removes old entries if the log is too large. A failure is
    /// reported at the next change.
    pub(super) fn compact(&mut self) {
        let size = self.log_bytes();
        if self.lease_until_us.is_some() {
            return; // the entries since the promoted generation are needed
        }
        let image_bytes = image::size(self.store.memory(), &self.ids);
        let since_image = size - self.images.last().map_or(0, |image| image.offset - self.log_start());
        let slow = self.replay_cost_us > REPLAY_BUDGET_US && self.can_afford(2 * image_bytes);
        // There are several images within the budget, so that only a part of the history is removed at a time.
        let large = since_image > self.budget.log / 4 && image_bytes <= since_image / 2 && self.can_afford(image_bytes);
        if (slow || large) && self.append_image().is_err() {
            return;
        }
        if size > self.budget.log {
            self.remove_old_entries();
        }
    }

    pub(super) fn can_afford(&self, bytes: u64) -> bool {
        let available = (self.budget.available)();
        available == 0 || bytes < available
    }

    pub(super) fn log_start(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.start())
    }

    /// Bytes from the first entry to the end of the last.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.end() - log.start())
    }

    /// Removes the entries before the oldest image from which on the log fits its budget, but never an entry that the
    /// current generation is rebuilt from.
    fn remove_old_entries(&mut self) {
        let Some(RebuildPath { start: RebuildStart::Image(needed), .. }) = self.path(self.generation) else { return };
        let Some(log) = &mut self.log else { return };
        let fits = |image: &&ImageEntry| log.end() - image.offset <= self.budget.log && image.offset <= needed;
        let at_last = |image: &&ImageEntry| image.offset == needed;
        let chosen = self.images.iter().find(fits).or(self.images.iter().find(at_last)).copied();
        let Some(image) = chosen.filter(|image| image.offset != self.first_entry) else { return };
        match log.remove_before(image.offset, image.sequence) {
            Ok(()) => self.forget_before(image),
            Err(error) => _ = self.fail(error),
        }
    }

    /// Forgets the entries before this image, which the log no longer has.
    pub(super) fn forget_before(&mut self, image: ImageEntry) {
        self.first_entry = image.offset;
        self.images.retain(|other| other.offset >= image.offset);
        let old = (image.generation + 1).saturating_sub(self.first_made) as usize;
        self.made.drain(..old.min(self.made.len()));
        self.first_made = image.generation + 1;
        debug_assert!(self.path(self.generation).is_some());
    }
}
