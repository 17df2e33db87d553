//! When an image of the weights is written to the log.

use super::image;
use super::{ChangeRequest, ImageEntry, Lineage, LineageError};
use crate::journal::EntryKind;

/// Longest time that a replay from the last image may take; then another image is made.
const REPLAY_BUDGET_US: u64 = 10_000_000;
/// The same with a log on a device, which is replayed at every start of the machine, ...
const DEVICE_REPLAY_BUDGET_US: u64 = 400_000;
/// ... and so many times the time to write the image, which is estimated from this many bytes in a microsecond.
const IMAGE_TIMES: u64 = 8;
const IMAGE_BYTES_PER_US: u64 = 500;

impl Lineage {
    /// Makes an image of the current weights, from which a rebuild can start. Does nothing during a trial, whose
    /// generations may be discarded, and without the memory for it.
    ///
    /// # Errors
    /// [`LineageError::Journal`].
    pub fn checkpoint(&mut self) -> Result<(), LineageError> {
        self.require_log()?;
        let known = self.images.last().is_some_and(|image| image.generation == self.generation);
        if known || self.lease_until_us.is_some() || !self.can_write_image(self.image_bytes()) {
            return Ok(());
        }
        self.append_image()?;
        self.compact();
        Ok(())
    }

    /// Writes an image in a batch of its own.
    pub(super) fn append_image(&mut self) -> Result<(), LineageError> {
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
        let image_bytes = self.image_bytes();
        let since_image = size - self.images.last().map_or(0, |image| image.offset - self.log_start());
        let slow = self.replay_cost_us > self.replay_budget_us(image_bytes);
        // There are several images within the budget, so that only a part of the history is removed at a time.
        let large = since_image > self.budget.log / 4 && image_bytes <= since_image / 2;
        if (slow || large) && self.can_spare_image(image_bytes) && self.append_image().is_err() {
            return;
        }
        if size > self.budget.log {
            self.remove_old_entries();
        }
        self.restore_room();
    }

    fn replay_budget_us(&self, image_bytes: u64) -> u64 {
        match self.log.as_ref().and_then(|log| log.capacity()) {
            None => REPLAY_BUDGET_US,
            Some(_) => DEVICE_REPLAY_BUDGET_US + IMAGE_TIMES * (image_bytes / IMAGE_BYTES_PER_US),
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
}
