//! Room in the log: what is accepted, and what is removed for it.
//!
//! Behind every mutation there is room for an image of the weights, which makes everything before it superfluous, and for
//! some short entries. So a rollback, a promotion and the end of a trial always find room.

use super::image;
use super::rebuild::{RebuildPath, RebuildStart};
use super::{ImageEntry, Lineage, LineageError};
use crate::journal::format::{BLOCK, NOTES_BYTES};
use crate::journal::{JournalError, JournalReason};
use crate::tensor::memory::PAGE;

/// Bytes by which an entry is at most longer than its edits, reply and blob, and by which its id makes an image longer.
const FURTHER_BYTES: u64 = 128;
/// The log of a device is kept below three quarters of the device, and below this.
const HISTORY_LIMIT: u64 = 512 << 20;

/// An entry that needs no room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// It ends the open trial, or none is open: entries can be removed behind it.
    Ends,
    /// The trial stays open, and the change is a return or a promotion.
    Stays,
    /// A lease is renewed.
    Renews,
}

/// What a change needs.
#[derive(Debug, Clone, Copy)]
struct Need {
    payload_bytes: u64,
    /// Of an image after it.
    image_bytes: u64,
}

impl Lineage {
    /// Adapts the limits of the log to the device that holds it, if one does.
    pub(super) fn adapt_budget(&mut self) {
        if let Some(capacity) = self.log.as_ref().and_then(|log| log.capacity()) {
            self.budget.log = (capacity / 4 * 3).min(HISTORY_LIMIT);
            self.budget.log_limit = u64::MAX;
        }
    }

    /// Bytes of an image of the current weights.
    pub(super) fn image_bytes(&self) -> u64 {
        image::size(self.store.memory(), &self.ids)
    }

    /// Bytes of memory that a new worker needs for the weights and to replay the log, after a mutation with this blob that
    /// changes at most `reachable` bytes.
    pub fn recovery_bytes(&self, reachable: u64, blob_bytes: u64) -> u64 {
        let memory = self.store.memory();
        let changed = u64::from(memory.dirty_count()) * PAGE as u64 + reachable.min(memory.clean_bytes());
        // An entry of a device is read into memory; one in memory is replayed where it is.
        let on_device = self.log.as_ref().is_some_and(|log| log.capacity().is_some());
        changed + if on_device { changed.max(blob_bytes) } else { 0 }
    }

    /// Bytes of memory that are free again when this worker ends.
    pub fn held_bytes(&self) -> u64 {
        u64::from(self.store.memory().dirty_count()) * PAGE as u64 + self.undo.size() as u64
    }

    fn free(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.free())
    }

    /// Checks that there is room for a mutation which has this many bytes of payload and changes at most `reachable` bytes.
    /// Removes old entries if there is not.
    ///
    /// # Errors
    /// [`LineageError::Journal`] if there is no room.
    pub fn require_room(&mut self, payload_bytes: u64, reachable: u64) -> Result<(), LineageError> {
        let memory = self.store.memory();
        let fresh = reachable.min(memory.clean_bytes()).div_ceil(PAGE as u64) * image::PAGE_BYTES;
        let need = Need {
            payload_bytes: payload_bytes.saturating_add(FURTHER_BYTES),
            image_bytes: self.image_bytes() + fresh + FURTHER_BYTES,
        };
        if !self.has_room(need) && self.may_fit(need) {
            self.make_room(need);
        }
        self.require_log()?;
        if self.has_room(need) && self.may_fit(need) {
            return Ok(());
        }
        let text = match (self.lease_until_us, self.log.as_ref().and_then(|log| log.capacity())) {
            (Some(_), _) => "the journal is full: promote or roll back what is on trial".to_string(),
            (None, None) => "the journal is full: the change does not fit the memory for it".to_string(),
            (None, Some(capacity)) => format!(
                "the state device is full: beside the change it needs room for two images of {} bytes, and it has {capacity}: \
                 use a larger one",
                need.image_bytes
            ),
        };
        Err(LineageError::Journal(JournalError::new(JournalReason::Full, text)))
    }

    fn has_room(&self, need: Need) -> bool {
        let Some(log) = &self.log else { return true };
        let limited = self.log_bytes().saturating_add(need.payload_bytes) <= self.budget.log_limit;
        limited && need.payload_bytes <= log.room(need.image_bytes)
    }

    /// Whether there would be room if the log held nothing but an image of the weights: then another image fits behind it.
    fn may_fit(&self, need: Need) -> bool {
        let Some(capacity) = self.log.as_ref().and_then(|log| log.capacity()) else { return true };
        let frames = need.image_bytes.saturating_mul(2).saturating_add(need.payload_bytes);
        frames.saturating_add(NOTES_BYTES + 4 * BLOCK) <= capacity
    }

    /// Removes old entries, as few as possible, until there is room; nothing while a trial is open. Makes an image if the log has
    /// none that helps.
    fn make_room(&mut self, need: Need) {
        if self.lease_until_us.is_some() || self.commit_batch().is_err() {
            return;
        }
        let missing = need.payload_bytes + need.image_bytes + NOTES_BYTES + 2 * BLOCK;
        let frees = |missing: u64, start: u64| move |image: &ImageEntry| image.offset - start >= missing;
        self.remove_before_one(frees(missing.saturating_sub(self.free()), self.log_start()));
        if !self.has_room(need) && self.can_write_image(self.image_bytes()) && self.append_image().is_ok() {
            match self.log.as_ref().and_then(|log| log.capacity()) {
                Some(_) => self.remove_before_one(frees(missing.saturating_sub(self.free()), self.log_start())),
                None => self.remove_old_entries(),
            }
        }
    }

    /// Whether an image may be written now: to a device if it fits, to memory if there is so much.
    pub(super) fn can_write_image(&self, image_bytes: u64) -> bool {
        match self.log.as_ref().and_then(|log| log.capacity()) {
            Some(_) => image_bytes.saturating_add(4 * BLOCK) <= self.free(),
            None => self.can_afford(image_bytes),
        }
    }

    /// Whether an image may be written that is not needed: another one then fits behind it.
    pub(super) fn can_spare_image(&self, image_bytes: u64) -> bool {
        self.can_write_image(image_bytes.saturating_mul(2).saturating_add(NOTES_BYTES))
    }

    /// Checks that there is room for an entry that needs none of its own.
    ///
    /// # Errors
    /// [`LineageError::Journal`] if the entries before have used up what is kept for them.
    pub(super) fn require_note(&self, note: Note) -> Result<(), LineageError> {
        if self.log.as_ref().is_none_or(|log| log.capacity().is_none()) {
            return Ok(());
        }
        let kept = match note {
            Note::Ends => 0,
            Note::Stays => self.image_bytes() + NOTES_BYTES / 2,
            Note::Renews => self.image_bytes() + NOTES_BYTES,
        };
        if self.free() >= kept + 2 * BLOCK {
            return Ok(());
        }
        let text = "the state device is full: promote or roll back what is on trial";
        Err(LineageError::Journal(JournalError::new(JournalReason::Full, text)))
    }

    /// Restores the room that short entries have used.
    pub(super) fn restore_room(&mut self) {
        let need = Need { payload_bytes: 0, image_bytes: self.image_bytes() };
        if self.log.as_ref().is_some_and(|log| log.capacity().is_some()) && !self.has_room(need) && self.may_fit(need) {
            self.make_room(need);
        }
    }

    /// Removes the entries before the oldest image from which on the log fits its budget.
    pub(super) fn remove_old_entries(&mut self) {
        let (end, budget) = (self.log_start() + self.log_bytes(), self.budget.log);
        self.remove_before_one(|image| end - image.offset <= budget);
    }

    /// Removes the entries before the oldest image that is good for it, or else before the newest possible, but never an entry that
    /// the current generation is rebuilt from. A failure is reported at the next change.
    fn remove_before_one(&mut self, is_good: impl Fn(&ImageEntry) -> bool) {
        let Some(RebuildPath { start: RebuildStart::Image(needed), .. }) = self.path(self.generation) else { return };
        let good = |image: &&ImageEntry| image.offset <= needed && is_good(image);
        let at_last = |image: &&ImageEntry| image.offset == needed;
        let chosen = self.images.iter().find(good).or(self.images.iter().find(at_last)).copied();
        let Some(image) = chosen.filter(|image| image.offset != self.first_entry) else { return };
        let Some(log) = &mut self.log else { return };
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
