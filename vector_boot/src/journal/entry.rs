//! One entry of the log: a head of fixed size that says all about a change but its contents, and a payload.

use crc32c::crc32c;

/// Bytes of a head.
pub const HEAD_BYTES: usize = 160;
const MAGIC: u32 = u32::from_le_bytes(*b"VBJ1");

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mutation; the payload holds its edits and blob.
    Mutate = 1,
    /// A return to the contents of the generation `target`; the payload is an image of them if the log has forgotten it.
    Rollback = 2,
    /// `target` was promoted.
    Promote = 3,
    /// A return to `target`, because a trial was not promoted in time.
    LeaseExpired = 4,
    /// A trial was given more time.
    Renew = 5,
    /// The payload holds every page that differs from the base.
    Image = 6,
}

impl Kind {
    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Image, LeaseExpired, Mutate, Promote, Renew, Rollback};
        [Mutate, Rollback, Promote, LeaseExpired, Renew, Image].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the entry makes a generation.
    pub fn makes_generation(self) -> bool {
        matches!(self, Kind::Mutate | Kind::Rollback | Kind::LeaseExpired)
    }
}

/// What tells two requests with the same id apart.
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
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Whether the reply told digests.
    pub digest: bool,
    /// Position in the log: each is one more than the one before.
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
    /// The request's id, zero if there was none.
    pub id: [u8; 16],
    /// The request's content.
    pub content: Content,
    /// Tensors that differ from before.
    pub changed_tensors: u32,
    /// Bytes that differ from before.
    pub changed_bytes: u64,
    /// The upload the blob came by, zero if it came with the request.
    pub upload: [u8; 16],
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl Head {
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
        Some(Head {
            kind: Kind::from_byte(bytes[8])?,
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

impl Head {
    /// Whether the payload is an image.
    pub fn holds_image(&self) -> bool {
        self.kind == Kind::Image || (self.kind != Kind::Mutate && self.payload_bytes > 0)
    }
}

/// An entry read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its head.
    pub head: Head,
    /// Its payload.
    pub payload: Vec<u8>,
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;

    /// A head with a value of its own in every field.
    pub fn head(kind: Kind, sequence: u64) -> Head {
        Head {
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
        for kind in [Kind::Mutate, Kind::Image] {
            let bytes = head(kind, 3).encode();
            assert_eq!(Head::decode(&bytes), Some(head(kind, 3)));
            for bit in 0..8 * HEAD_BYTES {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Head::decode(&damaged), None, "bit {bit}");
            }
        }
    }
}
