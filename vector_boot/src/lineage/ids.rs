//! The ids of past changes, so that a repeated request gets the same reply.

use std::collections::{HashMap, VecDeque};

use crate::journal::{Content, EntryHead, EntryKind};
use crate::protocol::REMEMBERED_IDS;

/// Bytes of an encoded id without its numbers and its upload: the id, kind, flags, two checksums.
const FIXED_BYTES: usize = 26;
/// Flags: whether the reply had digests, and whether an upload follows.
const DIGEST: u8 = 1;
const UPLOAD: u8 = 2;

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
    /// Offset of its entry in the log, which may have been removed since; 0 if it was removed before the log was read.
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
    added: u64,
    /// Length of [`Ids::encode`].
    encoded_bytes: usize,
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

    /// Adds the ids of `newer`, which are all newer.
    pub fn extend(&mut self, newer: Ids) {
        let Ids { mut known, order, .. } = newer;
        order
            .into_iter()
            .filter_map(|id| known.remove(&id).map(|done| (id, done)))
            .for_each(|(id, done)| self.insert(id, done));
    }

    /// How many ids were ever added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Removes the ids that were added since there were `added` of them. Those that made place for them do not come back.
    pub fn remove_since(&mut self, added: u64) {
        for _ in added..self.added {
            if let Some(id) = self.order.pop_back() {
                self.forget(&id);
            }
        }
        self.added = added;
    }

    fn insert(&mut self, id: [u8; 16], done: PastChange) {
        self.encoded_bytes += encoded_bytes(&done);
        match self.known.insert(id, done) {
            Some(old) => self.encoded_bytes -= encoded_bytes(&old),
            None => {
                self.order.push_back(id);
                self.added += 1;
            }
        }
        if self.order.len() > REMEMBERED_IDS {
            if let Some(oldest) = self.order.pop_front() {
                self.forget(&oldest);
            }
        }
    }

    fn forget(&mut self, id: &[u8; 16]) {
        if let Some(done) = self.known.remove(id) {
            self.encoded_bytes -= encoded_bytes(&done);
        }
    }

    /// Length of [`Ids::encode`].
    pub fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    /// All ids as bytes, oldest first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_bytes);
        for id in &self.order {
            let Some(done) = self.known.get(id) else { continue };
            bytes.extend(id);
            let digest = if done.digest { DIGEST } else { 0 };
            bytes.extend([done.kind as u8, digest | if has_upload(done) { UPLOAD } else { 0 }]);
            bytes.extend(done.content.params_crc.to_le_bytes());
            bytes.extend(done.content.blob_crc.to_le_bytes());
            numbers(done).iter().for_each(|number| push_number(&mut bytes, *number));
            if has_upload(done) {
                bytes.extend(done.upload);
            }
        }
        bytes
    }

    /// Reads ids written by [`Ids::encode`]; `None` if they are not valid.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut ids = Ids::default();
        while !bytes.is_empty() {
            let (id, done) = take_id(&mut bytes)?;
            ids.insert(id, done);
        }
        Some(ids)
    }
}

fn has_upload(done: &PastChange) -> bool {
    done.upload != [0; 16]
}

/// The numbers of a change in the order in which they are written.
fn numbers(done: &PastChange) -> [u64; 5] {
    let PastChange { content, generation, target, changed_tensors, changed_bytes, .. } = done;
    [content.bytes, *generation, *target, u64::from(*changed_tensors), *changed_bytes]
}

fn encoded_bytes(done: &PastChange) -> usize {
    let of_numbers: usize = numbers(done).iter().map(|number| number_bytes(*number)).sum();
    FIXED_BYTES + of_numbers + if has_upload(done) { 16 } else { 0 }
}

/// Bytes of a number: 7 bits in each, the lowest first; all but the last have the highest bit set.
fn number_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7F {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes)?;
        number |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take_id(bytes: &mut &[u8]) -> Option<([u8; 16], PastChange)> {
    let id = take(bytes)?;
    let [kind, flags] = take(bytes)?;
    let (params_crc, blob_crc) = (u32::from_le_bytes(take(bytes)?), u32::from_le_bytes(take(bytes)?));
    let mut next = || take_number(bytes);
    let (content_bytes, generation, target) = (next()?, next()?, next()?);
    let (changed_tensors, changed_bytes) = (u32::try_from(next()?).ok()?, next()?);
    let upload = if flags & UPLOAD == 0 { [0; 16] } else { take(bytes)? };
    let done = PastChange {
        kind: EntryKind::from_byte(kind)?,
        digest: flags & DIGEST != 0,
        content: Content { params_crc, blob_crc, bytes: content_bytes },
        upload,
        generation,
        target,
        changed_tensors,
        changed_bytes,
        offset: 0,
    };
    Some((id, done))
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
        let encoded = ids.encode();
        assert_eq!(encoded.len(), ids.encoded_bytes());
        let again = Ids::decode(&encoded).unwrap();
        assert_eq!(again.encoded_bytes(), ids.encoded_bytes());
        for number in [10, 5000, REMEMBERED_IDS as u64 + 9] {
            let known = ids.find(&id_of(number)).map(|done| PastChange { offset: 0, ..*done });
            assert_eq!(again.find(&id_of(number)), known.as_ref());
        }
        assert!(Ids::decode(&[0; 7]).is_none());
    }

    #[test]
    fn numbers_of_every_length_come_back() {
        for number in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            assert_eq!(bytes.len(), number_bytes(number));
            assert_eq!(take_number(&mut &bytes[..]), Some(number));
            assert_eq!(take_number(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take_number(&mut &[0xFF; 11][..]), None);
    }

    #[test]
    fn ids_that_were_added_can_be_removed() {
        let mut ids = Ids::default();
        ids.add(&EntryHead { id: [1; 16], ..head(EntryKind::Mutate, 1) }, 1);
        let (added, bytes) = (ids.added(), ids.encoded_bytes());
        ids.add(&EntryHead { id: [2; 16], ..head(EntryKind::Mutate, 2) }, 2);
        ids.add(&EntryHead { id: [3; 16], upload: [0; 16], ..head(EntryKind::Rollback, 3) }, 3);
        ids.remove_since(added);
        assert!(ids.find(&[1; 16]).is_some() && ids.find(&[2; 16]).is_none() && ids.find(&[3; 16]).is_none());
        assert_eq!((ids.added(), ids.encoded_bytes(), ids.encode().len()), (added, bytes, bytes));
    }
}
