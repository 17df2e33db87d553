//! The head of a frame. A frame is the unit of commit: its entries are all there, or none.

use sha2::{Digest, Sha256};

use super::superblock::Place;
use crate::journal::format::{frame as at, BLOCK, ENTRY_ALIGNMENT, ENTRY_HEAD_BYTES, FRAME_HEAD_BYTES, FRAME_MAGIC};

/// Bytes of the head of a frame.
pub const HEAD: usize = FRAME_HEAD_BYTES as usize;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Where it is and what it continues.
    pub place: Place,
    /// Number of entries.
    pub entries: u32,
    /// Bytes of the entries together.
    pub content_bytes: u64,
    /// XXH3-128 of the entries.
    pub content_sum: u128,
    /// Number of the boot that wrote it.
    pub boot: u64,
    /// Random bytes of its writer.
    pub nonce: [u8; 16],
    /// Digest of the head.
    pub digest: [u8; 32],
}

impl FrameHead {
    /// Its bytes, with the digest that they have under this salt.
    pub fn encode(&mut self, salt: &[u8; 32]) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(at::MAGIC, &FRAME_MAGIC);
        put(at::ENTRIES, &self.entries.to_le_bytes());
        for (place, number) in [
            (at::NUMBER, self.place.frame),
            (at::OFFSET, self.place.offset),
            (at::SEQUENCE, self.place.sequence),
            (at::CONTENT_BYTES, self.content_bytes),
            (at::BOOT, self.boot),
        ] {
            put(place, &number.to_le_bytes());
        }
        put(at::NONCE, &self.nonce);
        put(at::CONTENT_SUM, &self.content_sum.to_le_bytes());
        put(at::CHAIN, &self.place.chain);
        self.digest = digest(salt, &bytes);
        bytes[at::DIGEST..].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads the head at the beginning of a block; `None` if it is not right at this logical offset.
    pub fn decode(block: &[u8], salt: &[u8; 32], offset: u64) -> Option<Self> {
        let bytes: &[u8; HEAD] = block.first_chunk()?;
        let wide = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        if !bytes.starts_with(&FRAME_MAGIC) || wide(at::OFFSET)? != offset {
            return None;
        }
        let digest = digest(salt, bytes);
        if bytes[at::DIGEST..] != digest {
            return None;
        }
        Some(FrameHead {
            place: Place {
                offset,
                frame: wide(at::NUMBER)?,
                sequence: wide(at::SEQUENCE)?,
                chain: *bytes.get(at::CHAIN..)?.first_chunk()?,
            },
            entries: bytes.get(at::ENTRIES..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))?,
            content_bytes: wide(at::CONTENT_BYTES)?,
            content_sum: bytes.get(at::CONTENT_SUM..)?.first_chunk().map(|chunk| u128::from_le_bytes(*chunk))?,
            boot: wide(at::BOOT)?,
            nonce: *bytes.get(at::NONCE..)?.first_chunk()?,
            digest,
        })
    }

    /// Where the next frame begins, and what it continues.
    pub fn next(&self) -> Place {
        Place {
            offset: self.place.offset + frame_bytes(self.content_bytes),
            frame: self.place.frame + 1,
            sequence: self.place.sequence + u64::from(self.entries),
            chain: self.digest,
        }
    }
}

fn digest(salt: &[u8; 32], head: &[u8; HEAD]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(&head[..at::DIGEST]).finalize().into()
}

/// The seed of the sums of a device with this salt.
pub fn seed(salt: &[u8; 32]) -> u64 {
    salt.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Bytes of a frame with this much content; saturates.
pub fn frame_bytes(content_bytes: u64) -> u64 {
    let bytes = content_bytes.saturating_add(FRAME_HEAD_BYTES);
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

/// Bytes of an entry with this much payload; saturates.
pub fn entry_bytes(payload_bytes: u64) -> u64 {
    let bytes = payload_bytes.saturating_add(ENTRY_HEAD_BYTES);
    bytes.checked_next_multiple_of(ENTRY_ALIGNMENT).unwrap_or(u64::MAX)
}
