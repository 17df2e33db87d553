//! The history of the weights: the log from which they can be rebuilt, and the ring of short records.

pub mod device;
mod entry;
pub mod format;
pub mod log;
pub mod memory_file;
pub mod ring;
#[cfg(feature = "standalone")]
pub mod state_device;
pub mod storage;

use std::io;

pub use crate::protocol::JournalReason;
pub use entry::{Content, EntryHead, EntryKind, LogEntry, Payload, HEAD_BYTES, ORIGIN_BYTES};

/// Why a journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalError {
    /// The kind of reason.
    pub reason: JournalReason,
    /// One sentence.
    pub text: String,
}

impl JournalError {
    /// An error with this text.
    pub fn new(reason: JournalReason, text: impl Into<String>) -> Self {
        JournalError { reason, text: text.into() }
    }

    /// Whether a journal that was in use must not be written any more before the next boot.
    pub fn is_for_good(&self) -> bool {
        matches!(self.reason, JournalReason::Io | JournalReason::Gone)
    }
}

/// What a log that has failed may have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalLoss {
    /// Sequence number of the first entry that may be lost.
    pub from: u64,
    /// Why: [`JournalReason::Io`] or [`JournalReason::Gone`].
    pub reason: JournalReason,
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        JournalError::new(JournalReason::Io, error.to_string())
    }
}

/// Is shown each entry that is read: its offset and its head. An error ends the reading.
pub type Visit<'a> = dyn FnMut(u64, &EntryHead) -> Result<(), JournalError> + 'a;

/// A log of entries, as the history of the weights needs it. Entries are appended to an open batch, which becomes part of the
/// log as a whole, or not at all.
pub trait Journal: Send + Sync {
    /// Shows every entry that was not shown yet and was not appended here, in order: of a log that was just opened all of them,
    /// later those that another process has appended. If that process has removed entries that were not shown, it shows all
    /// that are left, which begin with an image.
    ///
    /// # Errors
    /// If the log cannot be read or is damaged, and whatever `visit` says.
    fn read_on(&mut self, visit: &mut Visit<'_>) -> Result<(), JournalError>;

    /// Makes what was read durable, after another process that has written the log has stopped. While that one writes it must
    /// not be done: a flush that fails here may lose its writes, and its own flush succeed.
    ///
    /// # Errors
    /// If that fails; the log must not be written any more.
    fn take_over(&mut self) -> Result<(), JournalError>;

    /// The entry at this offset, also one of the open batch; the checksum of its payload is verified.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    fn entry(&self, offset: u64) -> Result<LogEntry, JournalError>;

    /// Appends an entry to the open batch, whose payload is these pieces one after another, and sets sequence, length and
    /// checksum in `head`. An entry that holds an image must be the first of its batch. Returns the offset of the entry.
    ///
    /// # Errors
    /// If it cannot be written; the batch must be aborted then.
    fn append(&mut self, head: EntryHead, payload: &[&[u8]]) -> Result<u64, JournalError>;

    /// Makes the open batch part of the log, on stable storage if the log is [durable](Journal::durable).
    ///
    /// # Errors
    /// If that fails; the batch must be aborted and the log must not be written any more.
    fn commit(&mut self) -> Result<(), JournalError>;

    /// Forgets the open batch.
    fn abort(&mut self);

    /// Removes all entries before the one at `offset`, which holds an image and whose sequence number is `sequence`. No batch
    /// may be open.
    ///
    /// # Errors
    /// If that fails; the log must not be written any more.
    fn remove_before(&mut self, offset: u64, sequence: u64) -> Result<(), JournalError>;

    /// Offset of the first entry, or of a place before it that nothing else uses.
    fn start(&self) -> u64;

    /// Offset of the end of the last entry.
    fn end(&self) -> u64;

    /// Sequence number of the next entry.
    fn next_sequence(&self) -> u64;

    /// Frees memory that is kept for later entries. Returns the number of bytes.
    fn drop_spare(&mut self) -> u64 {
        0
    }

    /// How many bytes the log can hold; `None` if only memory limits it.
    fn capacity(&self) -> Option<u64>;

    /// How many bytes a batch may still have; more than any if only memory limits it.
    fn free(&self) -> u64;

    /// Bytes of payload that one more entry may have such that an image of `image_bytes` and some short entries still fit behind
    /// it; 0 if there is no room.
    fn room(&self, image_bytes: u64) -> u64;

    /// Whether a committed batch is on stable storage.
    fn durable(&self) -> bool;

    /// The id of the device that holds the log.
    fn device_id(&self) -> Option<[u8; 16]>;

    /// The number of this boot among all that have written the log; 0 if the log does not outlive the machine.
    fn boot(&self) -> u64;

    /// Where a batch ended the log that was not written wholly, if [`Journal::read_on`] has found one.
    fn torn(&self) -> Option<u64>;

    /// Checks that committed batches are found at the next start, as far as the log is [durable](Journal::durable).
    ///
    /// # Errors
    /// If they are not; the log must not be written any more.
    fn require_kept(&self) -> Result<(), JournalError> {
        Ok(())
    }

    /// Why the log can be read but not be written.
    fn refusal(&self) -> Option<JournalError>;
}

#[cfg(test)]
pub use entry::tests as entry_tests;
