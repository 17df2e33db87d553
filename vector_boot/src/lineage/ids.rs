//! Which changes were made under which id, so that a repeated request gets the old reply.

use std::collections::{HashMap, VecDeque};

use crate::journal::{Content, Head, Kind};

/// Ids kept.
const LIMIT: usize = 65_536;
const ENCODED_BYTES: usize = 96;

/// What was done under an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What the request asked for.
    pub kind: Kind,
    /// Whether the reply told digests.
    pub digest: bool,
    /// The request's content.
    pub content: Content,
    /// The upload its blob came by, zero if none.
    pub upload: [u8; 16],
    /// Generation it made, or was told.
    pub generation: u64,
    /// Generation rolled back to, or promoted.
    pub target: u64,
    /// Tensors it changed.
    pub changed_tensors: u32,
    /// Bytes it changed.
    pub changed_bytes: u64,
    /// Offset of its entry in the log; the entry may have been forgotten since.
    pub offset: u64,
}

impl Done {
    fn of(head: &Head, offset: u64) -> Self {
        Done {
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
    known: HashMap<[u8; 16], Done>,
    order: VecDeque<[u8; 16]>,
}

impl Ids {
    /// What was done under this id.
    pub fn find(&self, id: &[u8; 16]) -> Option<&Done> {
        self.known.get(id)
    }

    /// Notes an entry of the log, if it has an id.
    pub fn note(&mut self, head: &Head, offset: u64) {
        if head.id != [0; 16] && head.kind != Kind::Image {
            self.insert(head.id, Done::of(head, offset));
        }
    }

    fn insert(&mut self, id: [u8; 16], done: Done) {
        if self.known.insert(id, done).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > LIMIT {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Bytes that [`Ids::encode`] gives.
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

    /// Takes over ids written by [`Ids::encode`]; `None` if they make no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut ids = Ids::default();
        if !bytes.len().is_multiple_of(ENCODED_BYTES) {
            return None;
        }
        for entry in bytes.chunks_exact(ENCODED_BYTES) {
            let short = |at: usize| entry.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
            let wide = |at: usize| entry.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
            let done = Done {
                kind: Kind::from_byte(entry[32])?,
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
        for number in 0..LIMIT as u64 + 10 {
            let mut id = [1; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            ids.note(&Head { id, generation: number, ..head(Kind::Mutate, number) }, number);
        }
        let id_of = |number: u64| {
            let mut id = [1; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            id
        };
        assert!(ids.find(&id_of(9)).is_none());
        assert_eq!(ids.find(&id_of(10)).unwrap().generation, 10);
        let again = Ids::decode(&ids.encode()).unwrap();
        for number in [10, 5000, LIMIT as u64 + 9] {
            assert_eq!(again.find(&id_of(number)), ids.find(&id_of(number)));
        }
        assert!(Ids::decode(&[0; 7]).is_none());
    }
}
