//! Rebuilds the contents of generations from the model's file and the log.

use std::io;

use super::image::Image;
use super::{Budget, GenerationEntry, Ids, ImageEntry, Lineage, Undo};
use crate::journal::log::Log;
use crate::journal::storage::LogStorage;
use crate::journal::{EntryHead, EntryKind};
use crate::mutation::apply::apply;
use crate::mutation::plan::plan;
use crate::mutation::request::parse_edits;
use crate::tensor::memory::PagedMemory;
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
    /// Restores the newest generation in the log. If the log is not usable, the weights are those of the model's file,
    /// and every change is refused. `progress` is called regularly.
    pub fn recover(
        store: Store,
        storage: io::Result<Box<dyn LogStorage>>,
        budget: Budget,
        progress: &dyn Fn(),
    ) -> Self {
        let mut lineage = Lineage {
            store,
            generation: 0,
            promoted: 0,
            lease_until_us: None,
            undo: Undo::new(budget.undo),
            log: Err("the journal is not open".into()),
            first_made: 1,
            made: Default::default(),
            images: Vec::new(),
            ids: Ids::default(),
            budget,
            replay_cost_us: 0,
        };
        let opened = storage.and_then(Log::open).map_err(|error| error.to_string());
        if let Err(why) = opened.and_then(|log| lineage.replay(log, progress)) {
            (lineage.generation, lineage.promoted, lineage.lease_until_us) = (0, 0, None);
            (lineage.made, lineage.images, lineage.ids) = Default::default();
            lineage.log = Err(why);
        }
        lineage
    }

    fn replay(&mut self, log: Log, progress: &dyn Fn()) -> Result<(), String> {
        let mut last = None;
        for found in log.heads() {
            let (offset, head) = found.map_err(|error| error.to_string())?;
            if last.is_none() && head.holds_image() {
                let payload = log.entry(offset).map_err(|error| error.to_string())?.payload;
                self.ids = Image::parse(&payload).and_then(|image| image.ids()).ok_or("an image is damaged")?;
                self.first_made = head.generation + u64::from(head.kind == EntryKind::Image);
            }
            self.add_head(offset, &head)?;
            last = Some(head);
            progress();
        }
        self.log = Ok(log);
        let Some(head) = last else { return Ok(()) };
        let memory = self.rebuild(head.generation, progress)?.ok_or("the journal has a gap")?;
        if memory.fingerprint() != head.fingerprint {
            return Err("the weights were not restored exactly: their fingerprint differs".into());
        }
        self.store.replace_memory(memory);
        (self.generation, self.promoted) = (head.generation, head.promoted);
        self.lease_until_us = Some(head.lease_until_us).filter(|until| *until != 0);
        Ok(())
    }

    fn add_head(&mut self, offset: u64, head: &EntryHead) -> Result<(), String> {
        if head.holds_image() {
            self.images.push(ImageEntry { generation: head.generation, offset, sequence: head.sequence });
        }
        if head.kind.makes_generation() {
            if head.generation != self.first_made + self.made.len() as u64 {
                return Err("the journal has a gap".into());
            }
            let returned_to = (head.kind != EntryKind::Mutate).then_some(head.target);
            self.made.push_back(GenerationEntry { offset, returned_to, fingerprint: head.fingerprint });
        }
        self.ids.add(head, offset);
        Ok(())
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
    pub(super) fn rebuild(&self, to: u64, progress: &dyn Fn()) -> Result<Option<PagedMemory>, String> {
        let Some(RebuildPath { start, mutations }) = self.path(to) else { return Ok(None) };
        let log = self.log.as_ref().map_err(Clone::clone)?;
        let read = |offset| log.entry(offset).map_err(|error| error.to_string());
        let mut memory =
            self.store.base_memory().map_err(|error| format!("the file of the model cannot be mapped: {error}"))?;
        if let RebuildStart::Image(offset) = start {
            let entry = read(offset)?;
            let loaded = Image::parse(&entry.payload).is_some_and(|image| image.load(&mut memory, progress));
            if !loaded || memory.fingerprint() != entry.head.fingerprint {
                return Err("an image in the journal is damaged".into());
            }
        }
        for offset in mutations {
            let entry = read(offset)?;
            self.redo(&entry.payload, &mut memory, progress).ok_or("an entry of the journal is not valid")?;
            if memory.fingerprint() != entry.head.fingerprint {
                return Err(format!(
                    "generation {} was not restored exactly: its fingerprint differs",
                    entry.head.generation
                ));
            }
            progress();
        }
        Ok(Some(memory))
    }

    fn redo(&self, payload: &[u8], memory: &mut PagedMemory, progress: &dyn Fn()) -> Option<()> {
        let redo = MutationPayload::parse(payload)?;
        let edits = parse_edits(serde_json::from_slice(redo.edits).ok()?).ok()?;
        let plan = plan(&self.store, &edits, redo.blob).ok()?;
        let mut change = memory.begin();
        apply(&plan, &mut change, progress).ok()?;
        change.commit();
        Some(())
    }
}
