//! Brings contents back from the base and the log.

use std::io;

use super::image::Image;
use super::{Budget, Ids, ImageAt, Lineage, Made, Undo};
use crate::journal::log::Log;
use crate::journal::storage::Storage;
use crate::journal::{Head, Kind};
use crate::mutation::apply::apply;
use crate::mutation::plan::plan;
use crate::mutation::request::parse_edits;
use crate::tensor::memory::Memory;
use crate::tensor::Store;

/// The payload of a mutation taken apart.
pub struct Redo<'a> {
    /// The edits as JSON.
    pub edits: &'a [u8],
    /// What the reply told beyond numbers, as JSON; empty if nothing.
    pub reply: &'a [u8],
    /// The blob.
    pub blob: &'a [u8],
}

impl<'a> Redo<'a> {
    /// Takes a payload apart; `None` if it makes no sense.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let length = |at: usize| {
            let chunk = payload.get(at..)?.first_chunk()?;
            usize::try_from(u64::from_le_bytes(*chunk)).ok()
        };
        let (edits, reply) = (length(0)?, length(8)?);
        let (edits, rest) = payload.get(16..)?.split_at_checked(edits)?;
        let (reply, blob) = rest.split_at_checked(reply)?;
        Some(Redo { edits, reply, blob })
    }
}

/// Where rebuilding starts.
pub(super) enum Start {
    Base,
    Image(u64),
}

impl Lineage {
    /// Takes over the model's tensors and what the log says happened to them. Where the log cannot be trusted, the
    /// weights are those of the base, and nothing can change. `progress` is called all along.
    pub fn recover(store: Store, storage: io::Result<Box<dyn Storage>>, budget: Budget, progress: &dyn Fn()) -> Self {
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
        if let Err(why) = opened.and_then(|log| lineage.follow(log, progress)) {
            (lineage.generation, lineage.promoted, lineage.lease_until_us) = (0, 0, None);
            (lineage.made, lineage.images, lineage.ids) = Default::default();
            lineage.log = Err(why);
        }
        lineage
    }

    fn follow(&mut self, log: Log, progress: &dyn Fn()) -> Result<(), String> {
        let mut last = None;
        for found in log.heads() {
            let (offset, head) = found.map_err(|error| error.to_string())?;
            if last.is_none() && head.holds_image() {
                let payload = log.entry(offset).map_err(|error| error.to_string())?.payload;
                self.ids = Image::parse(&payload).and_then(|image| image.ids()).ok_or("an image is damaged")?;
                self.first_made = head.generation + u64::from(head.kind == Kind::Image);
            }
            self.note_head(offset, &head)?;
            last = Some(head);
            progress();
        }
        self.log = Ok(log);
        let Some(head) = last else { return Ok(()) };
        let memory = self.rebuild(head.generation, progress)?.ok_or("the journal has a gap")?;
        if memory.fingerprint() != head.fingerprint {
            return Err("the weights did not come back as they were".into());
        }
        self.store.replace_memory(memory);
        (self.generation, self.promoted) = (head.generation, head.promoted);
        self.lease_until_us = Some(head.lease_until_us).filter(|until| *until != 0);
        Ok(())
    }

    fn note_head(&mut self, offset: u64, head: &Head) -> Result<(), String> {
        if head.holds_image() {
            self.images.push(ImageAt { generation: head.generation, offset, sequence: head.sequence });
        }
        if head.kind.makes_generation() {
            if head.generation != self.first_made + self.made.len() as u64 {
                return Err("the journal has a gap".into());
            }
            let returned_to = (head.kind != Kind::Mutate).then_some(head.target);
            self.made.push_back(Made { offset, returned_to, fingerprint: head.fingerprint });
        }
        self.ids.note(head, offset);
        Ok(())
    }

    /// Where to start, and the mutations to apply, to get the contents of a generation: whatever was taken back is
    /// left out. `None` if the log does not reach that far.
    pub(super) fn path(&self, to: u64) -> Option<(Start, Vec<u64>)> {
        let (mut generation, mut offsets) = (to, Vec::new());
        let start = loop {
            if let Some(image) = self.images.iter().find(|image| image.generation == generation) {
                break Start::Image(image.offset);
            }
            if generation == 0 {
                break Start::Base;
            }
            let made = self.made(generation)?;
            match made.returned_to {
                Some(target) if target < generation => generation = target,
                Some(_) => return None,
                None => {
                    offsets.push(made.offset);
                    generation -= 1;
                }
            }
        };
        offsets.reverse();
        Some((start, offsets))
    }

    /// The contents of a generation in memory of their own; `None` if the log does not reach that far.
    pub(super) fn rebuild(&self, to: u64, progress: &dyn Fn()) -> Result<Option<Memory>, String> {
        let Some((start, offsets)) = self.path(to) else { return Ok(None) };
        let log = self.log.as_ref().map_err(Clone::clone)?;
        let read = |offset| log.entry(offset).map_err(|error| error.to_string());
        let mut memory = self.store.base_memory().map_err(|error| format!("the base cannot be mapped: {error}"))?;
        if let Start::Image(offset) = start {
            let entry = read(offset)?;
            let loaded = Image::parse(&entry.payload).is_some_and(|image| image.load(&mut memory, progress));
            if !loaded || memory.fingerprint() != entry.head.fingerprint {
                return Err("an image in the journal is damaged".into());
            }
        }
        for offset in offsets {
            let entry = read(offset)?;
            self.redo(&entry.payload, &mut memory, progress).ok_or("an entry of the journal makes no sense")?;
            if memory.fingerprint() != entry.head.fingerprint {
                return Err(format!("generation {} did not come back as it was", entry.head.generation));
            }
            progress();
        }
        Ok(Some(memory))
    }

    fn redo(&self, payload: &[u8], memory: &mut Memory, progress: &dyn Fn()) -> Option<()> {
        let redo = Redo::parse(payload)?;
        let edits = parse_edits(serde_json::from_slice(redo.edits).ok()?).ok()?;
        let plan = plan(&self.store, &edits, redo.blob).ok()?;
        let mut change = memory.begin();
        apply(&plan, &mut change, progress).ok()?;
        change.commit();
        Some(())
    }
}
