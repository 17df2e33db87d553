//! How a change becomes an entry of the log, and how it is taken back when the log cannot be written.

use std::io;

use super::{image, ChangeRequest, GenerationEntry, ImageEntry, Lineage, LineageError};
use crate::journal::log::Log;
use crate::journal::{EntryHead, EntryKind};
use crate::tensor::memory::BeforeImages;

impl Lineage {
    pub(super) fn make_generation(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        returned_to: Option<u64>,
        before: BeforeImages,
        payload: &[&[u8]],
    ) -> Result<(), LineageError> {
        let promoted = self.promoted;
        self.generation += 1;
        if self.lease_until_us.is_none() {
            self.promoted = self.generation;
        }
        match self.append(kind, asked, returned_to.unwrap_or(0), payload) {
            Ok(offset) => {
                self.made.push_back(GenerationEntry {
                    offset,
                    returned_to,
                    fingerprint: self.store.memory().fingerprint(),
                });
                self.store.drop_digests(before.iter().map(|(page, _)| page));
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
        let sequence = self.log.as_ref().map_or(0, Log::next_sequence);
        self.make_generation(kind, asked, Some(to), before, &[&payload])?;
        if let Some(made) = self.made.back() {
            self.images.push(ImageEntry { generation: self.generation, offset: made.offset, sequence });
        }
        self.replay_cost_us = 0;
        Ok(())
    }

    pub(super) fn append_note(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        target: u64,
    ) -> Result<(), LineageError> {
        match self.append(kind, asked, target, &[]) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fail(format!("the journal cannot be written: {error}"))),
        }
    }

    pub(super) fn append(
        &mut self,
        kind: EntryKind,
        asked: ChangeRequest,
        target: u64,
        payload: &[&[u8]],
    ) -> io::Result<u64> {
        let head = self.head(kind, asked, target);
        let log = self.log.as_mut().map_err(|why| io::Error::other(why.clone()))?;
        let offset = log.append(head, payload)?;
        self.ids.add(&head, offset);
        Ok(offset)
    }

    pub(super) fn put_back(&mut self, before: &BeforeImages) {
        let mut change = self.store.memory_mut().begin();
        before.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
        change.commit();
        self.store.drop_digests(before.iter().map(|(page, _)| page));
    }

    /// Stops using the log: a later write that succeeds would hide the loss.
    pub(super) fn fail(&mut self, why: String) -> LineageError {
        self.log = Err(why.clone());
        LineageError::Journal(why)
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
            payload_bytes: 0,
            payload_crc: 0,
        }
    }
}
