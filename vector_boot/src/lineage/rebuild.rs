//! Rebuilds the contents of generations from the model's file and the log.

use super::image::Image;
use super::{Budget, ChangeRequest, GenerationEntry, Ids, ImageEntry, Lineage, LineageError, Undo};
use crate::journal::device::planted::{self, Bug};
use crate::journal::device::{failed, gone, UNREADABLE};
use crate::journal::{EntryHead, EntryKind, Journal, JournalError, JournalReason, LogEntry};
use crate::mutation::apply::apply;
use crate::mutation::plan::{plan, Plan};
use crate::mutation::request::parse_edits;
use crate::sys::monotonic_us;
use crate::tensor::memory::{BeforeImages, PagedMemory};
use crate::tensor::Store;

/// The payload of a mutation in the log: what is needed to apply it again.
pub struct MutationPayload<'a> {
    /// The edits as JSON.
    pub edits: &'a [u8],
    /// The digests of its reply as JSON; empty if it has none.
    pub reply: &'a [u8],
    /// The blob.
    pub blob: &'a [u8],
}

impl<'a> MutationPayload<'a> {
    /// The lengths of edits and reply, which come first in a payload.
    pub(super) fn lengths(&self) -> Vec<u8> {
        [self.edits.len() as u64, self.reply.len() as u64].map(u64::to_le_bytes).concat()
    }

    /// Parses a payload; `None` if it is not valid.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let length = |at: usize| {
            let chunk = payload.get(at..)?.first_chunk()?;
            usize::try_from(u64::from_le_bytes(*chunk)).ok()
        };
        let (edits, reply) = (length(0)?, length(8)?);
        let (edits, rest) = payload.get(16..)?.split_at_checked(edits)?;
        let (reply, blob) = rest.split_at_checked(reply)?;
        Some(MutationPayload { edits, reply, blob })
    }
}

/// How to recover.
pub struct Recovery<'a> {
    /// How much memory the history may use.
    pub budget: Budget,
    /// Sequence number of the first entry that was never acknowledged, because the log failed earlier in this boot.
    pub lost_from: Option<u64>,
    /// Whether the log was opened in this boot before. If not, an open trial ends, unless the log does not outlive a boot.
    pub opened_before: bool,
    /// Microseconds since the machine started.
    pub uptime_us: u64,
    /// Is called regularly.
    pub progress: &'a dyn Fn(),
    /// Is shown every entry.
    pub seen: &'a mut dyn FnMut(&EntryHead),
}

/// Where a rebuild starts.
pub(super) enum RebuildStart {
    /// At the model's file.
    Base,
    /// At the image at this offset of the log.
    Image(u64),
}

/// How to rebuild a generation.
pub(super) struct RebuildPath {
    /// Where to start.
    pub start: RebuildStart,
    /// Offsets of the mutations to apply then, in order.
    pub mutations: Vec<u64>,
}

impl Lineage {
    /// Restores the newest generation in the log, or the promoted one if a trial of an earlier boot is open, which ends. If
    /// the log is not usable, the weights are those of the model's file, and every change is refused.
    pub fn recover(store: Store, log: Result<Box<dyn Journal>, JournalError>, recovery: Recovery<'_>) -> Self {
        let mut lineage = Lineage {
            store,
            generation: 0,
            promoted: 0,
            lease_until_us: None,
            undo: Undo::new(recovery.budget.undo),
            log: None,
            refusal: None,
            lost_from: recovery.lost_from,
            batch: None,
            ended_trial: None,
            hides_trial: false,
            first_entry: 0,
            first_made: 1,
            made: Default::default(),
            images: Vec::new(),
            ids: Ids::default(),
            budget: recovery.budget,
            replay_cost_us: 0,
        };
        if let Err(why) = log.and_then(|log| lineage.replay(log, recovery)) {
            lineage.forget_all();
            (lineage.log, lineage.refusal) = (None, Some(why));
        }
        lineage
    }

    fn replay(&mut self, mut log: Box<dyn Journal>, recovery: Recovery<'_>) -> Result<(), JournalError> {
        let Recovery { lost_from, opened_before, uptime_us, progress, seen, .. } = recovery;
        let (mut first, mut last) = (None, None);
        log.read_on(&mut |offset, head| {
            if lost_from.is_some_and(|lost| head.sequence >= lost) {
                return Ok(()); // it was never acknowledged
            }
            first.get_or_insert((offset, *head));
            self.add_head(offset, head)?;
            last = Some(*head);
            seen(head);
            progress();
            Ok(())
        })?;
        if let Some(lost) = lost_from.filter(|lost| log.next_sequence() < *lost) {
            let text = format!("the journal ends before entry {lost}, up to which it was acknowledged");
            return Err(JournalError::new(JournalReason::Gone, text));
        }
        self.refusal = log.refusal();
        let new_boot = !opened_before && log.boot() != 0 && !planted::is(Bug::LeaseForgotten);
        self.log = Some(log);
        self.adapt_budget();
        let Some((first, last)) = first.zip(last) else { return Ok(()) };
        if !new_boot || last.lease_until_us == 0 {
            return self.adopt(first, last, last.generation, progress);
        }
        self.adopt(first, last, last.promoted, progress)?;
        self.end_trial(ChangeRequest { uptime_us, ..ChangeRequest::default() });
        Ok(())
    }

    /// Ends the open trial, when memory holds the contents of the promoted generation already.
    fn end_trial(&mut self, asked: ChangeRequest) {
        let (newest, promoted) = (self.generation, self.promoted);
        let ended = self.require_log().and_then(|()| {
            self.open_batch();
            self.lease_until_us = None;
            self.make_generation(EntryKind::LeaseExpired, asked, Some(promoted), BeforeImages::default(), &[])?;
            self.commit()
        });
        self.undo.take_above(newest);
        match ended {
            Ok(()) => self.ended_trial = Some(promoted),
            Err(_) => {
                // It cannot be written that the trial has ended: nothing can be changed, and the trial is not shown.
                (self.generation, self.lease_until_us, self.hides_trial) = (promoted, None, true);
                self.made.truncate((promoted + 1).saturating_sub(self.first_made) as usize);
                self.images.retain(|image| image.generation <= promoted);
            }
        }
    }

    /// Makes the state after `last`, the newest entry of those that were added, with the contents of generation `shown`.
    /// `first` is the first entry, with its offset.
    pub(super) fn adopt(
        &mut self,
        (offset, first): (u64, EntryHead),
        last: EntryHead,
        shown: u64,
        progress: &dyn Fn(),
    ) -> Result<(), JournalError> {
        if first.holds_image() {
            let payload = self.entry(offset)?.payload;
            let older = Image::parse(&payload).and_then(|image| image.ids());
            let newer = std::mem::replace(&mut self.ids, older.ok_or_else(|| damaged("an image is damaged"))?);
            self.ids.extend(newer);
        }
        let started_us = monotonic_us();
        let memory = self.rebuild(shown, progress)?.ok_or_else(|| damaged("the journal has a gap"))?;
        self.replay_cost_us = monotonic_us() - started_us;
        let expected = if shown == last.generation { Some(last.fingerprint) } else { self.fingerprint_of(shown) };
        if expected.is_some_and(|expected| expected != memory.fingerprint()) {
            return Err(inexact(shown));
        }
        self.store.replace_memory(memory);
        (self.generation, self.promoted) = (last.generation, last.promoted);
        self.lease_until_us = Some(last.lease_until_us).filter(|until| *until != 0);
        self.settle();
        Ok(())
    }

    /// Forgets everything that was read from the log.
    pub(super) fn forget_all(&mut self) {
        (self.generation, self.promoted, self.lease_until_us) = (0, 0, None);
        (self.made, self.images, self.ids) = Default::default();
        (self.first_entry, self.first_made) = (0, 1);
        self.undo.take_above(0);
    }

    /// Adds an entry to the list of what is in the log.
    pub(super) fn add_head(&mut self, offset: u64, head: &EntryHead) -> Result<(), JournalError> {
        if self.first_entry == 0 {
            self.first_entry = offset;
            self.first_made = head.generation + u64::from(!head.kind.makes_generation());
        }
        if head.holds_image() {
            self.images.push(ImageEntry { generation: head.generation, offset, sequence: head.sequence });
        }
        if head.kind.makes_generation() {
            if head.generation != self.first_made + self.made.len() as u64 {
                return Err(damaged("the journal has a gap"));
            }
            let returned_to = (head.kind != EntryKind::Mutate).then_some(head.target);
            self.made.push_back(GenerationEntry { offset, returned_to, fingerprint: head.fingerprint });
        }
        self.ids.add(head, offset);
        Ok(())
    }

    /// Changes the weights to the contents of generation `to`. Returns the pages as they were; `None` if the generation is no
    /// longer kept.
    ///
    /// # Errors
    /// [`LineageError::Journal`]; the weights have not changed then.
    pub(super) fn restore(&mut self, to: u64, progress: &dyn Fn()) -> Result<Option<BeforeImages>, LineageError> {
        let expected = self.fingerprint_of(to);
        let mut change = self.store.memory_mut().begin();
        if to != self.generation && !self.undo.restore(to, &mut change) {
            drop(change);
            let rebuilt = self.rebuild(to, progress).map_err(|why| self.refuse(why))?;
            let Some(rebuilt) = rebuilt else { return Ok(None) };
            let dirty: Vec<u32> = self.store.memory().dirty_pages().chain(rebuilt.dirty_pages()).collect();
            change = self.store.memory_mut().begin();
            dirty.iter().for_each(|page| change.write_page(*page, rebuilt.page(*page)));
        }
        let before = change.commit();
        if expected.is_some_and(|expected| expected != self.store.memory().fingerprint()) {
            self.put_back(&before);
            return Err(self.refuse(inexact(to)));
        }
        Ok(Some(before))
    }

    /// How to rebuild the contents of a generation; mutations that were rolled back are left out. `None` if the log
    /// does not reach back that far.
    pub(super) fn path(&self, to: u64) -> Option<RebuildPath> {
        let (mut generation, mut mutations) = (to, Vec::new());
        let start = loop {
            if let Some(image) = self.images.iter().find(|image| image.generation == generation) {
                break RebuildStart::Image(image.offset);
            }
            if generation == 0 {
                break RebuildStart::Base;
            }
            let made = self.made(generation)?;
            match made.returned_to {
                Some(target) if target < generation => generation = target,
                Some(_) => return None,
                None => {
                    mutations.push(made.offset);
                    generation -= 1;
                }
            }
        };
        mutations.reverse();
        Some(RebuildPath { start, mutations })
    }

    /// The contents of a generation in new memory; `None` if the log does not reach back that far.
    pub(super) fn rebuild(&self, to: u64, progress: &dyn Fn()) -> Result<Option<PagedMemory>, JournalError> {
        let Some(RebuildPath { start, mutations }) = self.path(to) else { return Ok(None) };
        let mut memory = self.base_memory()?;
        if let RebuildStart::Image(offset) = start {
            let entry = self.entry(offset)?;
            let loaded = Image::parse(&entry.payload).is_some_and(|image| image.load(&mut memory, progress));
            if !loaded || memory.fingerprint() != entry.head.fingerprint {
                return Err(damaged("an image in the journal is damaged"));
            }
        }
        for offset in mutations {
            let LogEntry { head, payload } = self.entry(offset)?;
            let plan = self.plan_again(&payload)?;
            let mut change = memory.rewrite();
            apply(&plan, &mut change, progress).map_err(|_| invalid_entry())?;
            change.finish();
            if memory.fingerprint() != head.fingerprint {
                return Err(inexact(head.generation));
            }
            progress();
        }
        Ok(Some(memory))
    }

    /// The memory of generation 0.
    pub(super) fn base_memory(&self) -> Result<PagedMemory, JournalError> {
        self.store.base_memory().map_err(|error| {
            JournalError::new(JournalReason::Io, format!("the file of the model cannot be mapped: {error}"))
        })
    }

    pub(super) fn entry(&self, offset: u64) -> Result<LogEntry, JournalError> {
        let none = || JournalError::new(JournalReason::Io, "the journal is not open");
        self.log.as_ref().ok_or_else(|| self.refusal.clone().unwrap_or_else(none))?.entry(offset)
    }

    /// The plan of a mutation in the log.
    pub(super) fn plan_again<'p>(&self, payload: &'p [u8]) -> Result<Plan<'p>, JournalError> {
        let planned = || {
            let redo = MutationPayload::parse(payload)?;
            let edits = parse_edits(serde_json::from_slice(redo.edits).ok()?).ok()?;
            plan(&self.store, &edits, redo.blob).ok()
        };
        planned().ok_or_else(invalid_entry)
    }
}

pub(super) fn damaged(text: &str) -> JournalError {
    JournalError::new(JournalReason::Damaged, text)
}

/// Why a log on a device that has failed in this boot for this reason takes no changes. `readable`: whether its entries were read.
pub fn failed_before(reason: JournalReason, readable: bool) -> JournalError {
    let text = match (reason, readable) {
        (JournalReason::Gone, true) => gone("was deleted, replaced or cut short earlier in this boot"),
        (JournalReason::Gone, false) => UNREADABLE.into(),
        _ => failed("earlier in this boot"),
    };
    JournalError::new(reason, text)
}

pub(super) fn invalid_entry() -> JournalError {
    damaged("an entry of the journal is not valid")
}

pub(super) fn inexact(generation: u64) -> JournalError {
    let text = format!("generation {generation} was not restored exactly: its fingerprint differs");
    JournalError::new(JournalReason::Damaged, text)
}
