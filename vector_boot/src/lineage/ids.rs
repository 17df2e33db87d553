//! The ids of past changes, so that a repeated request gets the same reply.

use std::collections::{HashMap, VecDeque};

use crate::journal::{Content, EntryHead, EntryKind};
use crate::protocol::REMEMBERED_IDS;

const ENCODED_BYTES: usize = 96;

/// A past change with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastChange {
    /// The kind of change.
    pub kind: EntryKind,
    /// Whether the reply had digests.
    pub digest: bool,
    /// The content of the request.
    pub content: Content,
    /// Id of the upload that was its blob; zero if there was none.
    pub upload: [u8; 16],
    /// The generation after it.
    pub generation: u64,
    /// The generation rolled back to, or promoted.
    pub target: u64,
    /// Number of tensors that it changed.
    pub changed_tensors: u32,
    /// Number of bytes that it changed.
    pub changed_bytes: u64,
    /// Offset of its entry in the log; the entry may have been removed since.
    pub offset: u64,
}

impl PastChange {
    fn of(head: &EntryHead, offset: u64) -> Self {
        PastChange {
            kind: head.kind,
            digest: head.digest,
            content: head.content,
            upload: head.upload,
            generation: head.generation,
            target: head.target,
            changed_tensors: head.changed_tensors,
            changed_bytes: head.changed_bytes,
            offset,
        }
    }
}

/// The newest ids.
#[derive(Default)]
pub struct Ids {
    known: HashMap<[u8; 16], PastChange>,
    order: VecDeque<[u8; 16]>,
}

impl Ids {
    /// The change with this id.
    pub fn find(&self, id: &[u8; 16]) -> Option<&PastChange> {
        self.known.get(id)
    }

    /// Adds an entry of the log, if it has an id.
    pub fn add(&mut self, head: &EntryHead, offset: u64) {
        if head.id != [0; 16] && head.kind != EntryKind::Image {
            self.insert(head.id, PastChange::of(head, offset));
        }
    }

    fn insert(&mut self, id: [u8; 16], done: PastChange) {
        if self.known.insert(id, done).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED_IDS {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Length of [`Ids::encode`].
    pub fn encoded_bytes(&self) -> usize {
        self.order.len() * ENCODED_BYTES
    }

    /// All ids as bytes, oldest first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.order.len() * ENCODED_BYTES);
        for id in &self.order {
            let Some(done) = self.known.get(id) else { continue };
            bytes.extend(id);
            bytes.extend(done.upload);
            bytes.extend([done.kind as u8, u8::from(done.digest), 0, 0]);
            for number in [done.changed_tensors, done.content.params_crc, done.content.blob_crc] {
                bytes.extend(number.to_le_bytes());
            }
            for number in [done.content.bytes, done.generation, done.target, done.changed_bytes, done.offset, 0] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads ids written by [`Ids::encode`]; `None` if they are not valid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut ids = Ids::default();
        if !bytes.len().is_multiple_of(ENCODED_BYTES) {
            return None;
        }
        for entry in bytes.chunks_exact(ENCODED_BYTES) {
            let short = |at: usize| entry.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
            let wide = |at: usize| entry.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
            let done = PastChange {
                kind: EntryKind::from_byte(entry[32])?,
                digest: entry[33] != 0,
                changed_tensors: short(36)?,
                content: Content { params_crc: short(40)?, blob_crc: short(44)?, bytes: wide(48)? },
                upload: *entry.get(16..)?.first_chunk()?,
                generation: wide(56)?,
                target: wide(64)?,
                changed_bytes: wide(72)?,
                offset: wide(80)?,
            };
            ids.insert(*entry.first_chunk()?, done);
        }
        Some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry_tests::head;

    #[test]
    fn the_newest_ids_are_kept_and_survive_encoding() {
        let mut ids = Ids::default();
        for number in 0..REMEMBERED_IDS as u64 + 10 {
            let mut id = [1; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            ids.add(&EntryHead { id, generation: number, ..head(EntryKind::Mutate, number) }, number);
        }
        let id_of = |number: u64| {
            let mut id = [1; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            id
        };
        assert!(ids.find(&id_of(9)).is_none());
        assert_eq!(ids.find(&id_of(10)).unwrap().generation, 10);
        let again = Ids::decode(&ids.encode()).unwrap();
        for number in [10, 5000, REMEMBERED_IDS as u64 + 9] {
            assert_eq!(again.find(&id_of(number)), ids.find(&id_of(number)));
        }
        assert!(Ids::decode(&[0; 7]).is_none());
    }
}
