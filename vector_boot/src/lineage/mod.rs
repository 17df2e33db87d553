//! The weights and how they came to be: generations, trials, the way back, and the log behind all of it.
//!
//! A change is applied in a transaction, then written to the log, then kept. Everything here can be rebuilt from the
//! base file and the log alone.

pub mod ids;
mod image;
mod images;
mod rebuild;
mod undo;

use std::collections::VecDeque;
use std::io;

use crate::journal::log::Log;
use crate::journal::{Content, Head, Kind};
use crate::tensor::memory::BeforeImages;
use crate::tensor::Store;
use ids::Ids;
use undo::Undo;

/// Replay of an entry costs about this beyond its application.
const ENTRY_COST_US: u64 = 20;

/// How much memory the past may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of before-images.
    pub undo: usize,
    /// Bytes of the log after which old entries are forgotten.
    pub log: u64,
    /// Bytes of the log that are never passed.
    pub log_limit: u64,
    /// Bytes of memory that may still be taken; 0 if nobody knows.
    pub available: fn() -> u64,
}

impl Budget {
    /// A share of the machine's memory.
    pub fn of_memory(total_bytes: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let log = (total_bytes / 4).clamp(16 * MIB, 256 * MIB);
        let undo = (total_bytes / 16).clamp(16 * MIB, 256 * MIB) as usize;
        Budget { undo, log, log_limit: (total_bytes / 3).max(64 * MIB), available: crate::sys::available_memory }
    }
}

/// Why a change cannot be.
#[derive(Debug)]
pub enum Refusal {
    /// 1014: no such generation, or no longer kept.
    Unknown(String),
    /// 1015: the journal failed.
    Journal(String),
}

/// A generation in the log.
#[derive(Debug, Clone, Copy)]
struct Made {
    offset: u64,
    /// Generation whose contents it has again; `None` for a mutation.
    returned_to: Option<u64>,
    fingerprint: u64,
}

/// An image in the log.
#[derive(Debug, Clone, Copy)]
struct ImageAt {
    generation: u64,
    offset: u64,
    sequence: u64,
}

/// A change that was asked for, as the log will tell it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// The request's id, zero if none.
    pub id: [u8; 16],
    /// The request's content.
    pub content: Content,
    /// The upload its blob came by, zero if none.
    pub upload: [u8; 16],
    /// Whether the reply tells digests.
    pub digest: bool,
    /// Tensors that differ from before.
    pub changed_tensors: u32,
    /// Bytes that differ from before.
    pub changed_bytes: u64,
}

/// The weights with their past.
pub struct Lineage {
    store: Store,
    generation: u64,
    promoted: u64,
    /// When the open trial ends, in microseconds of the monotonic clock.
    lease_until_us: Option<u64>,
    undo: Undo,
    /// The log, or why there is none that can be trusted.
    log: Result<Log, String>,
    /// The generations in the log: the first of them, and all without a gap.
    first_made: u64,
    made: VecDeque<Made>,
    images: Vec<ImageAt>,
    ids: Ids,
    budget: Budget,
    replay_cost_us: u64,
}

impl Lineage {
    /// The tensors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tensors, for a change that ends in [`Lineage::keep`] or in an aborted transaction.
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

    /// When the open trial ends, in microseconds of the monotonic clock.
    pub fn lease_until_us(&self) -> Option<u64> {
        self.lease_until_us
    }

    /// The ids of past changes.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Whether changes can be logged.
    ///
    /// # Errors
    /// Why not.
    pub fn require_log(&self) -> Result<(), Refusal> {
        self.log.as_ref().map(|_| ()).map_err(|why| Refusal::Journal(why.clone()))
    }

    /// Keeps a mutation that was just committed to memory: writes it to the log and makes it the current generation.
    /// `edits`, the JSON, and `blob` are what it can be repeated from.
    ///
    /// # Errors
    /// If the log fails; the weights are as before then.
    pub fn keep(
        &mut self,
        asked: Asked,
        before: BeforeImages,
        lease_until_us: Option<u64>,
        (edits, reply, blob): (&str, &str, &[u8]),
        cost_us: u64,
    ) -> Result<(), Refusal> {
        let open = self.lease_until_us;
        self.lease_until_us = match (lease_until_us, open) {
            (Some(asked), Some(open)) => Some(asked.max(open)),
            (asked, open) => asked.or(open),
        };
        let lengths = [edits.len() as u64, reply.len() as u64].map(u64::to_le_bytes).concat();
        let payload = [&lengths[..], edits.as_bytes(), reply.as_bytes(), blob];
        let made = self.make_generation(Kind::Mutate, asked, None, before, &payload);
        made.inspect_err(|_| self.lease_until_us = open)?;
        self.replay_cost_us += cost_us + ENTRY_COST_US;
        self.tidy();
        Ok(())
    }

    /// Makes a generation whose contents are those of generation `to`. Tells how many bytes changed.
    ///
    /// # Errors
    /// 1014 or 1015; nothing has changed then.
    pub fn roll_back(&mut self, kind: Kind, asked: Asked, to: u64, progress: &dyn Fn()) -> Result<(), Refusal> {
        let unknown = || Refusal::Unknown(format!("generation {to} is not kept any more"));
        if to > self.generation {
            return Err(Refusal::Unknown(format!(
                "there is no generation {to} yet: the newest is {}",
                self.generation
            )));
        }
        self.require_log()?;
        let expected = self.fingerprint_of(to);
        let mut change = self.store.memory_mut().begin();
        if to != self.generation && !self.undo.restore(to, &mut change) {
            drop(change);
            let rebuilt = self.rebuild(to, progress).map_err(Refusal::Journal)?.ok_or_else(unknown)?;
            let dirty: Vec<u32> = self.store.memory().dirty_pages().chain(rebuilt.dirty_pages()).collect();
            change = self.store.memory_mut().begin();
            dirty.iter().for_each(|page| change.write_page(*page, rebuilt.page(*page)));
        }
        let before = change.commit();
        if expected.is_some_and(|expected| expected != self.store.memory().fingerprint()) {
            self.put_back(&before);
            return Err(self.fail(format!("generation {to} did not come back as it was")));
        }
        let (lease, promoted) = (self.lease_until_us, self.promoted);
        if to <= self.promoted {
            self.lease_until_us = None;
        }
        // Before-images reach further back than the log may: then the way back must not lead through the log.
        let lost = self.path(to).is_none();
        if lost && !self.can_afford(image::size(self.store.memory(), &self.ids)) {
            self.put_back(&before);
            return Err(unknown());
        }
        self.make_return(kind, asked, to, before, lost).inspect_err(|_| {
            (self.lease_until_us, self.promoted) = (lease, promoted);
        })?;
        self.replay_cost_us += ENTRY_COST_US;
        self.tidy();
        Ok(())
    }

    /// Returns to the promoted generation if the open trial has ended. Tells whether it did.
    ///
    /// # Errors
    /// 1014 or 1015; the trial is given up then, the weights stay.
    pub fn expire_lease(&mut self, now_us: u64, progress: &dyn Fn()) -> Result<bool, Refusal> {
        if self.lease_until_us.is_none_or(|until| now_us < until) {
            return Ok(false);
        }
        let result = self.roll_back(Kind::LeaseExpired, Asked::default(), self.promoted, progress);
        if result.is_err() {
            self.lease_until_us = None; // it would fail again at once, for ever
        }
        result.map(|()| true)
    }

    /// Takes a generation out of its trial.
    ///
    /// # Errors
    /// 1014 or 1015.
    pub fn promote(&mut self, asked: Asked, generation: u64) -> Result<(), Refusal> {
        self.require_log()?;
        if generation < self.promoted || generation > self.generation {
            let text = format!("generation {generation} is not on trial: {} is promoted", self.promoted);
            return Err(Refusal::Unknown(text));
        }
        let (lease, promoted) = (self.lease_until_us, self.promoted);
        self.promoted = generation;
        self.lease_until_us = lease.filter(|_| generation < self.generation);
        self.note(Kind::Promote, asked, generation).inspect_err(|_| {
            (self.lease_until_us, self.promoted) = (lease, promoted);
        })?;
        self.tidy();
        Ok(())
    }

    /// Gives the open trial until `until_us`.
    ///
    /// # Errors
    /// 1014 or 1015.
    pub fn renew(&mut self, generation: u64, until_us: u64) -> Result<(), Refusal> {
        self.require_log()?;
        if self.lease_until_us.is_none() || generation <= self.promoted || generation > self.generation {
            return Err(Refusal::Unknown(format!("generation {generation} is not on trial")));
        }
        let lease = self.lease_until_us.replace(until_us);
        self.note(Kind::Renew, Asked::default(), generation).inspect_err(|_| self.lease_until_us = lease)
    }

    /// Gives the memory of all before-images back; the log still leads to their generations. Tells how many bytes.
    pub fn forget_before_images(&mut self) -> u64 {
        self.undo.clear() as u64
    }

    /// Whether an entry with so many bytes of payload still fits the log.
    pub fn has_room(&self, payload_bytes: u64) -> bool {
        self.log.as_ref().is_ok_and(|log| log.size() + payload_bytes <= self.budget.log_limit)
    }

    /// The reply noted with the mutation at this offset of the log; `None` if it has been forgotten.
    pub fn noted_reply(&self, offset: u64) -> Option<String> {
        let log = self.log.as_ref().ok().filter(|log| offset >= log.start())?;
        let payload = log.entry(offset).ok()?.payload;
        String::from_utf8(rebuild::Redo::parse(&payload)?.reply.to_vec()).ok()
    }

    /// Fingerprint of a generation's contents, if the log knows it.
    fn fingerprint_of(&self, generation: u64) -> Option<u64> {
        match generation {
            0 => Some(0),
            _ => Some(self.made(generation)?.fingerprint),
        }
    }

    fn made(&self, generation: u64) -> Option<&Made> {
        self.made.get(usize::try_from(generation.checked_sub(self.first_made)?).ok()?)
    }

    fn make_generation(
        &mut self,
        kind: Kind,
        asked: Asked,
        returned_to: Option<u64>,
        before: BeforeImages,
        payload: &[&[u8]],
    ) -> Result<(), Refusal> {
        let promoted = self.promoted;
        self.generation += 1;
        if self.lease_until_us.is_none() {
            self.promoted = self.generation;
        }
        match self.append(kind, asked, returned_to.unwrap_or(0), payload) {
            Ok(offset) => {
                self.made.push_back(Made { offset, returned_to, fingerprint: self.store.memory().fingerprint() });
                self.store.forget_digests(before.iter().map(|(page, _)| page));
                self.undo.push(self.generation, before);
                Ok(())
            }
            Err(error) => {
                (self.generation, self.promoted) = (self.generation - 1, promoted);
                self.put_back(&before);
                Err(self.fail(format!("the journal cannot be written: {error}")))
            }
        }
    }

    /// Makes the generation that memory holds already, with an image of it in the log if `with_image`.
    fn make_return(
        &mut self,
        kind: Kind,
        asked: Asked,
        to: u64,
        before: BeforeImages,
        with_image: bool,
    ) -> Result<(), Refusal> {
        if !with_image {
            return self.make_generation(kind, asked, Some(to), before, &[]);
        }
        let (mut payload, pages) = image::front(self.store.memory(), &self.ids);
        pages.iter().for_each(|page| payload.extend_from_slice(self.store.memory().page(*page)));
        let sequence = self.log.as_ref().map_or(0, Log::next_sequence);
        self.make_generation(kind, asked, Some(to), before, &[&payload])?;
        if let Some(made) = self.made.back() {
            self.images.push(ImageAt { generation: self.generation, offset: made.offset, sequence });
        }
        self.replay_cost_us = 0;
        Ok(())
    }

    fn note(&mut self, kind: Kind, asked: Asked, target: u64) -> Result<(), Refusal> {
        match self.append(kind, asked, target, &[]) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fail(format!("the journal cannot be written: {error}"))),
        }
    }

    fn append(&mut self, kind: Kind, asked: Asked, target: u64, payload: &[&[u8]]) -> io::Result<u64> {
        let head = self.head(kind, asked, target);
        let log = self.log.as_mut().map_err(|why| io::Error::other(why.clone()))?;
        let offset = log.append(head, payload)?;
        self.ids.note(&head, offset);
        Ok(offset)
    }

    fn put_back(&mut self, before: &BeforeImages) {
        let mut change = self.store.memory_mut().begin();
        before.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
        change.commit();
        self.store.forget_digests(before.iter().map(|(page, _)| page));
    }

    /// The log is not trusted any more: a later write that succeeds would hide a loss.
    fn fail(&mut self, why: String) -> Refusal {
        self.log = Err(why.clone());
        Refusal::Journal(why)
    }

    /// The head of an entry about the state as it is.
    fn head(&self, kind: Kind, asked: Asked, target: u64) -> Head {
        Head {
            kind,
            digest: asked.digest,
            sequence: 0, // this and the payload's two are for the log to fill in
            generation: self.generation,
            fingerprint: self.store.memory().fingerprint(),
            promoted: self.promoted,
            lease_until_us: self.lease_until_us.unwrap_or(0),
            target,
            id: asked.id,
            content: asked.content,
            changed_tensors: asked.changed_tensors,
            changed_bytes: asked.changed_bytes,
            upload: asked.upload,
            payload_bytes: 0,
            payload_crc: 0,
        }
    }
}

#[cfg(test)]
mod tests;
