//! One entry of the log: a head of fixed size that describes a change, and a payload with its contents.

use crc32c::crc32c;

/// Bytes of a head.
pub const HEAD_BYTES: usize = 160;
const MAGIC: u32 = u32::from_le_bytes(*b"VBJ1");

/// What an entry of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A mutation; the payload holds its edits and blob.
    Mutate = 1,
    /// The contents of generation `target` are current again. The payload is an image of them if the log no longer
    /// reaches back to that generation.
    Rollback = 2,
    /// Generation `target` was promoted.
    Promote = 3,
    /// The contents of generation `target` are current again, because a trial was not promoted in time.
    LeaseExpired = 4,
    /// The lease of a trial was renewed.
    Renew = 5,
    /// An image: the payload holds every page that differs from the base.
    Image = 6,
}

impl EntryKind {
    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use EntryKind::{Image, LeaseExpired, Mutate, Promote, Renew, Rollback};
        [Mutate, Rollback, Promote, LeaseExpired, Renew, Image].into_iter().find(|kind| *kind as u8 == byte)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl EntryHead {
    /// The head's bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.kind as u8, u8::from(self.digest), 0, 0]);
        for number in [self.changed_tensors, self.content.params_crc, self.content.blob_crc, self.payload_crc] {
            bytes.extend(number.to_le_bytes());
        }
        let numbers = [
            self.sequence,
            self.generation,
            self.fingerprint,
            self.promoted,
            self.lease_until_us,
            self.target,
            self.content.bytes,
            self.changed_bytes,
            self.payload_bytes,
        ];
        bytes.extend([0; 4]);
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(self.id);
        bytes.extend(self.upload);
        bytes.resize(HEAD_BYTES, 0);
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes.try_into().unwrap_or([0; HEAD_BYTES])
    }

    /// Reads a head; `None` if it is damaged.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let short = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
        let wide = |index: usize| bytes.get(32 + 8 * index..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        if short(0)? != MAGIC || short(4)? != crc32c(&bytes[8..]) {
            return None;
        }
        Some(EntryHead {
            kind: EntryKind::from_byte(bytes[8])?,
            digest: bytes[9] != 0,
            changed_tensors: short(12)?,
            content: Content { params_crc: short(16)?, blob_crc: short(20)?, bytes: wide(6)? },
            payload_crc: short(24)?,
            sequence: wide(0)?,
            generation: wide(1)?,
            fingerprint: wide(2)?,
            promoted: wide(3)?,
            lease_until_us: wide(4)?,
            target: wide(5)?,
            changed_bytes: wide(7)?,
            payload_bytes: wide(8)?,
            id: *bytes.get(104..)?.first_chunk()?,
            upload: *bytes.get(120..)?.first_chunk()?,
        })
    }
}

impl EntryHead {
    /// Whether the payload is an image.
    pub fn holds_image(&self) -> bool {
        self.kind == EntryKind::Image || (self.kind != EntryKind::Mutate && self.payload_bytes > 0)
    }
}

/// An entry that was read from the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Its head.
    pub head: EntryHead,
    /// Its payload.
    pub payload: Vec<u8>,
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
            payload_bytes: 0,
            payload_crc: 0,
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
