//! One entry of the log: a head of fixed size that describes a change, and a payload with its contents. `spec/journal.md`
//! describes them.

use std::ops::Deref;

use crate::crc::crc32c;
use xxhash_rust::xxh3::Xxh3;

pub use super::format::EntryKind;
use super::format::{entry as at, ENTRY_HEAD_BYTES, ENTRY_MAGIC};
use crate::sys::memory::Mapping;

/// Bytes of a head.
pub const HEAD_BYTES: usize = ENTRY_HEAD_BYTES as usize;
/// Bytes of the origin of a change that are kept.
pub const ORIGIN_BYTES: usize = 16;

impl EntryKind {
    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        EntryKind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the entry makes a generation.
    pub fn makes_generation(self) -> bool {
        matches!(self, EntryKind::Mutate | EntryKind::Rollback | EntryKind::LeaseExpired)
    }
}

/// Identifies the content of a request, to tell a repeated request from another one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content {
    /// CRC-32C of the parameters as canonical JSON.
    pub params_crc: u32,
    /// CRC-32C of the blob.
    pub blob_crc: u32,
    /// Bytes of both together.
    pub bytes: u64,
}

/// The head of an entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntryHead {
    /// What the entry is.
    pub kind: EntryKind,
    /// Whether the reply had digests.
    pub digest: bool,
    /// Sequence number: one more than that of the entry before.
    pub sequence: u64,
    /// Generation after it.
    pub generation: u64,
    /// Fingerprint of the weights after it.
    pub fingerprint: u64,
    /// Newest promoted generation after it.
    pub promoted: u64,
    /// When the open trial ends, in microseconds of the monotonic clock; 0 if none is open.
    pub lease_until_us: u64,
    /// Generation rolled back to, or promoted.
    pub target: u64,
    /// The id of the request; zero if there was none.
    pub id: [u8; 16],
    /// The content of the request.
    pub content: Content,
    /// Tensors that differ from before.
    pub changed_tensors: u32,
    /// Bytes that differ from before.
    pub changed_bytes: u64,
    /// Id of the upload that was the blob; zero if the blob came with the request.
    pub upload: [u8; 16],
    /// Edits of a mutation.
    pub edits: u32,
    /// Who made the change, or why: UTF-8, padded with zeros.
    pub origin: [u8; ORIGIN_BYTES],
    /// Confidence of a mutation; else 0.
    pub confidence: f64,
    /// When, in microseconds since the machine started.
    pub uptime_us: u64,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Checksum of the payload, [`sum_of`] it.
    pub payload_sum: u32,
}

/// The checksum of a payload, piece by piece.
#[derive(Default)]
pub struct PayloadSum(Xxh3);

impl PayloadSum {
    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The checksum of all pieces.
    pub fn finish(&self) -> u32 {
        self.0.digest() as u32
    }
}

/// The checksum of a payload that consists of these pieces.
pub fn sum_of(payload: &[&[u8]]) -> u32 {
    let mut sum = PayloadSum::default();
    payload.iter().for_each(|piece| sum.add(piece));
    sum.finish()
}

impl EntryHead {
    /// The head's bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(at::MAGIC, &ENTRY_MAGIC);
        put(at::KIND, &[self.kind as u8, u8::from(self.digest)]);
        for (place, number) in [
            (at::CHANGED_TENSORS, self.changed_tensors),
            (at::PARAMS_CRC, self.content.params_crc),
            (at::BLOB_CRC, self.content.blob_crc),
            (at::PAYLOAD_SUM, self.payload_sum),
            (at::EDITS, self.edits),
        ] {
            put(place, &number.to_le_bytes());
        }
        for (place, number) in [
            (at::SEQUENCE, self.sequence),
            (at::GENERATION, self.generation),
            (at::FINGERPRINT, self.fingerprint),
            (at::PROMOTED, self.promoted),
            (at::LEASE_UNTIL_US, self.lease_until_us),
            (at::TARGET, self.target),
            (at::CONTENT_BYTES, self.content.bytes),
            (at::CHANGED_BYTES, self.changed_bytes),
            (at::PAYLOAD_BYTES, self.payload_bytes),
            (at::CONFIDENCE, self.confidence.to_bits()),
            (at::UPTIME_US, self.uptime_us),
        ] {
            put(place, &number.to_le_bytes());
        }
        for (place, id) in [(at::ID, &self.id), (at::UPLOAD, &self.upload), (at::ORIGIN, &self.origin)] {
            put(place, id);
        }
        let crc = crc32c(&bytes[at::KIND..]);
        bytes[at::CRC..at::KIND].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a head; `None` if it is damaged.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let short = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
        let wide = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        let id = |at: usize| bytes.get(at..)?.first_chunk().copied();
        if !bytes.starts_with(&ENTRY_MAGIC) || short(at::CRC)? != crc32c(&bytes[at::KIND..]) {
            return None;
        }
        Some(EntryHead {
            kind: EntryKind::from_byte(bytes[at::KIND])?,
            digest: bytes[at::FLAGS] & 1 != 0,
            changed_tensors: short(at::CHANGED_TENSORS)?,
            content: Content {
                params_crc: short(at::PARAMS_CRC)?,
                blob_crc: short(at::BLOB_CRC)?,
                bytes: wide(at::CONTENT_BYTES)?,
            },
            payload_sum: short(at::PAYLOAD_SUM)?,
            edits: short(at::EDITS)?,
            sequence: wide(at::SEQUENCE)?,
            generation: wide(at::GENERATION)?,
            fingerprint: wide(at::FINGERPRINT)?,
            promoted: wide(at::PROMOTED)?,
            lease_until_us: wide(at::LEASE_UNTIL_US)?,
            target: wide(at::TARGET)?,
            changed_bytes: wide(at::CHANGED_BYTES)?,
            payload_bytes: wide(at::PAYLOAD_BYTES)?,
            id: id(at::ID)?,
            upload: id(at::UPLOAD)?,
            origin: id(at::ORIGIN)?,
            confidence: f64::from_bits(wide(at::CONFIDENCE)?),
            uptime_us: wide(at::UPTIME_US)?,
        })
    }
}

impl EntryHead {
    /// Whether the payload is an image.
    pub fn holds_image(&self) -> bool {
        self.kind == EntryKind::Image || (self.kind != EntryKind::Mutate && self.payload_bytes > 0)
    }
}

/// The bytes of a payload: read into memory, or those of a memory file where they are.
pub enum Payload {
    /// A copy.
    Read(Vec<u8>),
    /// Mapped bytes, from this one on.
    Mapped(Mapping, usize),
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Payload::Read(bytes) => bytes,
            Payload::Mapped(mapping, start) => &mapping.bytes()[*start..],
        }
    }
}

/// An entry that was read from the log.
pub struct LogEntry {
    /// Its head.
    pub head: EntryHead,
    /// Its payload.
    pub payload: Payload,
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;

    /// A head with a different value in every field.
    pub fn head(kind: EntryKind, sequence: u64) -> EntryHead {
        EntryHead {
            kind,
            digest: true,
            sequence,
            generation: sequence + 100,
            fingerprint: 1 << 63,
            promoted: 5,
            lease_until_us: 6,
            target: 7,
            id: [8; 16],
            content: Content { params_crc: 9, blob_crc: 10, bytes: 11 },
            changed_tensors: 12,
            changed_bytes: 13,
            upload: [14; 16],
            edits: 15,
            origin: [16; ORIGIN_BYTES],
            confidence: 0.9,
            uptime_us: 17,
            payload_bytes: 0,
            payload_sum: 0,
        }
    }

    #[test]
    fn heads_come_back_and_every_flipped_bit_is_seen() {
        for kind in [EntryKind::Mutate, EntryKind::Image] {
            let bytes = head(kind, 3).encode();
            assert_eq!(EntryHead::decode(&bytes), Some(head(kind, 3)));
            for bit in 0..8 * HEAD_BYTES {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(EntryHead::decode(&damaged), None, "bit {bit}");
            }
        }
    }
}
