//! The weights and their history: generations, trials, rollback and recovery.
//!
//! A change is applied in a transaction, then written to the log, then committed. Everything here can be rebuilt from
//! the model's file and the log alone.

mod append;
mod batch;
mod catch_up;
pub mod ids;
mod image;
mod images;
mod past;
mod rebuild;
mod room;
mod undo;

use std::collections::VecDeque;

use crate::journal::{Content, EntryKind, Journal, JournalError, JournalReason, ORIGIN_BYTES};
use crate::tensor::memory::BeforeImages;
use crate::tensor::Store;
use batch::BatchStart;
use ids::Ids;
pub use past::PastError;
pub use rebuild::{failed_before, MutationPayload, Recovery};
use room::Note;
use undo::Undo;

/// Time to replay an entry, without the time to apply its edits.
const ENTRY_COST_US: u64 = 20;

/// How much memory the history may use.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of before-images.
    pub undo: usize,
    /// Bytes of the log above which old entries are removed.
    pub log: u64,
    /// Bytes that the log never exceeds.
    pub log_limit: u64,
    /// Bytes of memory that are available; 0 if that is unknown.
    pub available: fn() -> u64,
}

impl Budget {
    /// A share of the memory of the machine.
    pub fn of_memory(total_bytes: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let log = (total_bytes / 4).clamp(16 * MIB, 256 * MIB);
        let undo = (total_bytes / 16).clamp(16 * MIB, 256 * MIB) as usize;
        Budget { undo, log, log_limit: (total_bytes / 3).max(64 * MIB), available: crate::sys::available_memory }
    }
}

/// Why a change of the history is refused; one sentence each.
#[derive(Debug, Clone)]
pub enum LineageError {
    /// There is no such generation, or it is no longer kept.
    UnknownGeneration(String),
    /// The journal takes no changes, or is damaged.
    Journal(JournalError),
}

/// A generation in the log.
#[derive(Debug, Clone, Copy)]
struct GenerationEntry {
    offset: u64,
    /// For a rollback, the generation whose contents became current again; `None` for a mutation.
    returned_to: Option<u64>,
    fingerprint: u64,
}

/// An image in the log.
#[derive(Debug, Clone, Copy)]
struct ImageEntry {
    generation: u64,
    offset: u64,
    sequence: u64,
}

/// A requested change, as it will be written to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangeRequest {
    /// The id of the request; zero if it has none.
    pub id: [u8; 16],
    /// The content of the request.
    pub content: Content,
    /// Id of the upload that is its blob; zero if there is none.
    pub upload: [u8; 16],
    /// Whether the reply has digests.
    pub digest: bool,
    /// Tensors that differ from before.
    pub changed_tensors: u32,
    /// Bytes that differ from before.
    pub changed_bytes: u64,
    /// Edits of a mutation.
    pub edits: u32,
    /// Who makes the change, or why: UTF-8, padded with zeros.
    pub origin: [u8; ORIGIN_BYTES],
    /// Confidence of a mutation; else 0.
    pub confidence: f64,
    /// When, in microseconds since the machine started.
    pub uptime_us: u64,
}

/// The weights with their history.
pub struct Lineage {
    store: Store,
    generation: u64,
    promoted: u64,
    /// When the open trial ends, in microseconds of the monotonic clock.
    lease_until_us: Option<u64>,
    undo: Undo,
    /// The log; `None` if there is none that can be read.
    log: Option<Box<dyn Journal>>,
    /// Why no change can be written to the log.
    refusal: Option<JournalError>,
    /// Sequence number of the first entry that a durable log may have lost, once it has failed.
    lost_from: Option<u64>,
    /// The state before the open batch, if one is open.
    batch: Option<BatchStart>,
    /// The generation that was restored when the log was opened, because a trial of an earlier boot was open.
    ended_trial: Option<u64>,
    /// Whether the log still has such a trial, because its end could not be written.
    hides_trial: bool,
    /// Offset of the first entry in the log.
    first_entry: u64,
    /// Number of the first generation in the log.
    first_made: u64,
    /// The generations in the log, without a gap.
    made: VecDeque<GenerationEntry>,
    images: Vec<ImageEntry>,
    ids: Ids,
    budget: Budget,
    replay_cost_us: u64,
}

impl Lineage {
    /// The tensors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tensors, for a change that ends with [`Lineage::add_mutation`] or with an aborted transaction.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The current generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest promoted generation.
    pub fn promoted(&self) -> u64 {
        self.promoted
    }

    /// The id of the device that holds the log.
    pub fn device_id(&self) -> Option<[u8; 16]> {
        self.log.as_ref()?.device_id()
    }

    /// When the open trial ends, in microseconds of the monotonic clock.
    pub fn lease_until_us(&self) -> Option<u64> {
        self.lease_until_us
    }

    /// The ids of past changes.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Checks that changes can be written to the log.
    ///
    /// # Errors
    /// [`LineageError::Journal`].
    pub fn require_log(&self) -> Result<(), LineageError> {
        match (&self.refusal, &self.log) {
            (None, Some(_)) => Ok(()),
            _ => Err(self.unusable()),
        }
    }

    /// Why no change can be made.
    pub fn refusal(&self) -> Option<&JournalError> {
        self.refusal.as_ref()
    }

    /// Refuses every further change for this reason.
    pub fn refuse(&mut self, why: JournalError) -> LineageError {
        self.refusal = Some(why.clone());
        LineageError::Journal(why)
    }

    /// Sequence number of the first entry that a durable log may have lost, once it has failed.
    pub fn lost_from(&self) -> Option<u64> {
        self.lost_from
    }

    /// The log, if there is one that can be read.
    pub fn log(&self) -> Option<&dyn Journal> {
        self.log.as_deref()
    }

    /// Whether changes that are made now survive the machine.
    pub fn durable(&self) -> bool {
        self.refusal.is_none() && self.log.as_ref().is_some_and(|log| log.durable())
    }

    /// Whether this generation, if it is committed, survives the machine: one on trial does not.
    pub fn keeps(&self, generation: u64) -> bool {
        self.durable() && generation <= self.promoted
    }

    /// The generation that was restored when the log was opened, because a trial of an earlier boot was open.
    pub fn ended_trial(&self) -> Option<u64> {
        self.ended_trial
    }

    /// Whether a trial of an earlier boot is still open in the log, because its end could not be written. It is not shown.
    pub fn hides_trial(&self) -> bool {
        self.hides_trial
    }

    /// Whether changes that are said to survive the machine do.
    pub fn log_is_kept(&self) -> bool {
        self.refusal.is_some() || self.log.as_ref().is_none_or(|log| log.require_kept().is_ok())
    }

    /// Why the log cannot be used.
    fn unusable(&self) -> LineageError {
        let none = || JournalError::new(JournalReason::Io, "the journal is not open");
        LineageError::Journal(self.refusal.clone().unwrap_or_else(none))
    }

    /// Makes the current generation of a mutation that was just committed to memory, in the open batch;
    /// [`Lineage::commit`] must follow. `before` holds the pages as they were; `lease_until_us` is the end of its trial
    /// (monotonic clock); `cost_us` is the time that applying it took.
    ///
    /// # Errors
    /// [`LineageError::Journal`]; the weights are then those before the batch.
    pub fn add_mutation(
        &mut self,
        asked: ChangeRequest,
        before: BeforeImages,
        lease_until_us: Option<u64>,
        payload: &MutationPayload<'_>,
        cost_us: u64,
    ) -> Result<(), LineageError> {
        self.open_batch();
        self.lease_until_us = match (lease_until_us, self.lease_until_us) {
            (Some(asked), Some(open)) => Some(asked.max(open)),
            (asked, open) => asked.or(open),
        };
        let lengths = payload.lengths();
        let pieces = [&lengths[..], payload.edits, payload.reply, payload.blob];
        self.make_generation(EntryKind::Mutate, asked, None, before, &pieces)?;
        self.replay_cost_us += cost_us + ENTRY_COST_US;
        Ok(())
    }

    /// Makes a new generation with the contents of generation `to`.
    ///
    /// # Errors
    /// [`LineageError`]; nothing has changed then.
    pub fn roll_back(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        to: u64,
        progress: &dyn Fn(),
    ) -> Result<(), LineageError> {
        let unknown = || LineageError::UnknownGeneration(format!("generation {to} is no longer kept"));
        if to > self.generation {
            return Err(LineageError::UnknownGeneration(format!(
                "there is no generation {to} yet: the newest is {}",
                self.generation
            )));
        }
        self.require_log()?;
        self.commit_batch()?;
        let stays_open = self.lease_until_us.is_some() && to > self.promoted;
        self.require_note(if stays_open { Note::Stays } else { Note::Ends })?;
        let before = self.restore(to, progress)?.ok_or_else(unknown)?;
        // Before-images may reach further back than the log: then the entry itself must hold the contents.
        let lost = self.path(to).is_none();
        let image_bytes = self.image_bytes();
        if lost && !(self.can_afford(image_bytes) && self.can_write_image(image_bytes)) {
            self.put_back(&before);
            return Err(unknown());
        }
        self.open_batch();
        if to <= self.promoted {
            self.lease_until_us = None;
        }
        self.make_return(kind, asked, to, before, lost)?;
        self.replay_cost_us += ENTRY_COST_US;
        self.commit()
    }

    /// Returns to the promoted generation if the lease of the open trial has expired. Returns whether it has.
    ///
    /// # Errors
    /// [`LineageError`]; the weights stay as they are then, and no change can be made any more: it would promote them.
    pub fn expire_lease(
        &mut self,
        asked: ChangeRequest,
        now_us: u64,
        progress: &dyn Fn(),
    ) -> Result<bool, LineageError> {
        if self.lease_until_us.is_none_or(|until| now_us < until) {
            return Ok(false);
        }
        let result = self.roll_back(EntryKind::LeaseExpired, asked, self.promoted, progress);
        result.map(|()| true).map_err(|error| {
            self.lease_until_us = None; // it would fail again immediately, without end
            match error {
                LineageError::Journal(why) if self.refusal.is_none() => self.fail(why),
                LineageError::UnknownGeneration(text) => self.fail(rebuild::damaged(&text)),
                refused => refused,
            }
        })
    }

    /// Promotes a generation that is on trial.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn promote(&mut self, asked: ChangeRequest, generation: u64) -> Result<(), LineageError> {
        self.require_log()?;
        if generation < self.promoted || generation > self.generation {
            let text = format!("generation {generation} is not on trial: {} is promoted", self.promoted);
            return Err(LineageError::UnknownGeneration(text));
        }
        let stays_open = self.lease_until_us.is_some() && generation < self.generation;
        self.require_note(if stays_open { Note::Stays } else { Note::Ends })?;
        self.open_batch();
        self.promoted = generation;
        self.lease_until_us = self.lease_until_us.filter(|_| generation < self.generation);
        self.append(EntryKind::Promote, asked, generation, &[])?;
        self.commit()
    }

    /// Sets the end of the open trial to `until_us` (monotonic clock).
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn renew(&mut self, asked: ChangeRequest, generation: u64, until_us: u64) -> Result<(), LineageError> {
        self.require_log()?;
        if self.lease_until_us.is_none() || generation <= self.promoted || generation > self.generation {
            return Err(LineageError::UnknownGeneration(format!("generation {generation} is not on trial")));
        }
        self.require_note(Note::Renews)?;
        self.open_batch();
        self.lease_until_us = Some(until_us);
        self.append(EntryKind::Renew, asked, generation, &[])?;
        self.commit()
    }

    /// Frees all before-images; their generations can still be rebuilt from the log. Frees what is kept for later ones and for
    /// entries of the log, too. Returns the number of bytes freed.
    pub fn drop_before_images(&mut self) -> u64 {
        let freed = self.undo.clear() + self.store.memory_mut().drop_spare();
        freed as u64 + self.log.as_mut().map_or(0, |log| log.drop_spare())
    }

    /// The reply stored with the mutation at this offset of the log; `None` if the entry was removed.
    pub fn stored_reply(&self, offset: u64) -> Option<String> {
        let log = self.log.as_ref().filter(|log| offset >= log.start())?;
        let payload = log.entry(offset).ok()?.payload;
        String::from_utf8(MutationPayload::parse(&payload)?.reply.to_vec()).ok()
    }

    /// Fingerprint of the contents of a generation, if the log has it.
    fn fingerprint_of(&self, generation: u64) -> Option<u64> {
        match generation {
            0 => Some(0),
            _ => Some(self.made(generation)?.fingerprint),
        }
    }

    fn made(&self, generation: u64) -> Option<&GenerationEntry> {
        self.made.get(usize::try_from(generation.checked_sub(self.first_made)?).ok()?)
    }
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
