//! How a change becomes an entry of the log.

use super::{image, ChangeRequest, GenerationEntry, ImageEntry, Lineage, LineageError};
use crate::journal::{EntryHead, EntryKind};
use crate::tensor::memory::BeforeImages;

impl Lineage {
    /// Makes a generation of the contents that memory holds, in the open batch. `before` holds the pages as they were.
    pub(super) fn make_generation(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        returned_to: Option<u64>,
        before: BeforeImages,
        payload: &[&[u8]],
    ) -> Result<(), LineageError> {
        self.open_batch();
        self.generation += 1;
        if self.lease_until_us.is_none() {
            self.promoted = self.generation;
        }
        self.store.drop_digests(before.iter().map(|(page, _)| page));
        self.undo.push(self.generation, before);
        let offset = self.append(kind, asked, returned_to.unwrap_or(0), payload)?;
        let fingerprint = self.store.memory().fingerprint();
        self.made.push_back(GenerationEntry { offset, returned_to, fingerprint });
        Ok(())
    }

    /// Makes a generation of the contents that memory already holds; `with_image` writes an image of them to the log.
    pub(super) fn make_return(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        to: u64,
        before: BeforeImages,
        with_image: bool,
    ) -> Result<(), LineageError> {
        if !with_image {
            return self.make_generation(kind, asked, Some(to), before, &[]);
        }
        let image::ImageFront { bytes: mut payload, pages } = image::front(self.store.memory(), &self.ids);
        pages.iter().for_each(|page| payload.extend_from_slice(self.store.memory().page(*page)));
        let sequence = self.next_sequence();
        self.make_generation(kind, asked, Some(to), before, &[&payload])?;
        if let Some(made) = self.made.back() {
            self.images.push(ImageEntry { generation: self.generation, offset: made.offset, sequence });
        }
        self.replay_cost_us = 0;
        Ok(())
    }

    /// Appends an entry to the open batch; if that fails, the batch is taken back. Returns the offset of the entry.
    pub(super) fn append(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        target: u64,
        payload: &[&[u8]],
    ) -> Result<u64, LineageError> {
        self.open_batch();
        let head = self.head(kind, asked, target);
        let appended = match &mut self.log {
            Some(log) => log.append(head, payload),
            None => return Err(self.unusable()),
        };
        let offset = appended.map_err(|error| self.fail(error))?;
        self.ids.add(&head, offset);
        if self.first_entry == 0 {
            self.first_entry = offset;
        }
        Ok(offset)
    }

    /// Sequence number of the next entry.
    pub(super) fn next_sequence(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.next_sequence())
    }

    /// The head of an entry about the current state.
    pub(super) fn head(&self, kind: EntryKind, asked: ChangeRequest, target: u64) -> EntryHead {
        EntryHead {
            kind,
            digest: asked.digest,
            sequence: 0, // the log sets this, and the length and checksum of the payload
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
            edits: asked.edits,
            origin: asked.origin,
            confidence: asked.confidence,
            uptime_us: asked.uptime_us,
            payload_bytes: 0,
            payload_sum: 0,
        }
    }
}
