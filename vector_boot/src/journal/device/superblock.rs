//! The two superblocks: what the device is, and where its log starts.

use sha2::{Digest, Sha256};

use super::planted::{self, Bug};
use crate::journal::format::{superblock as at, AREA_START, BLOCK, FORMAT_VERSION, SUPERBLOCK_BYTES, SUPERBLOCK_MAGIC};
use crate::journal::storage::BlockDevice;
use crate::journal::JournalError;

const BYTES: usize = SUPERBLOCK_BYTES as usize;

/// A superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Version of the format that wrote it.
    pub version: u32,
    /// Oldest version whose readers may read the device.
    pub least_reader: u32,
    /// Its number: the one with the highest is current.
    pub turn: u64,
    /// Random id of the device.
    pub device_id: [u8; 16],
    /// Random bytes that no payload knows.
    pub salt: [u8; 32],
    /// Digest of the model at generation 0.
    pub model: [u8; 32],
    /// SHA-256 of the model's file.
    pub file: [u8; 32],
    /// Where the log area begins.
    pub area_offset: u64,
    /// Length of the log area.
    pub area_bytes: u64,
    /// The first frame of the log.
    pub start: Place,
    /// Logical offset that no frame ever written exceeds.
    pub reach: u64,
}

/// Where a frame begins, and what it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Logical offset.
    pub offset: u64,
    /// Number of the frame.
    pub frame: u64,
    /// Sequence number of its first entry.
    pub sequence: u64,
    /// Digest of the frame before.
    pub chain: [u8; 32],
}

impl Superblock {
    /// Its bytes.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(at::MAGIC, &SUPERBLOCK_MAGIC);
        put(at::VERSION, &self.version.to_le_bytes());
        put(at::LEAST_READER, &self.least_reader.to_le_bytes());
        put(at::DEVICE_ID, &self.device_id);
        for (place, bytes) in [
            (at::SALT, &self.salt),
            (at::MODEL, &self.model),
            (at::FILE, &self.file),
            (at::START_CHAIN, &self.start.chain),
        ] {
            put(place, bytes);
        }
        for (place, number) in [
            (at::TURN, self.turn),
            (at::AREA_OFFSET, self.area_offset),
            (at::AREA_BYTES, self.area_bytes),
            (at::START, self.start.offset),
            (at::START_FRAME, self.start.frame),
            (at::START_SEQUENCE, self.start.sequence),
            (at::REACH, self.reach),
        ] {
            put(place, &number.to_le_bytes());
        }
        let digest: [u8; 32] = Sha256::digest(&bytes[..at::DIGEST]).into();
        bytes[at::DIGEST..].copy_from_slice(&digest);
        bytes
    }

    /// Reads a superblock; `None` if it is not right.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.first_chunk()?;
        let wide = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        let long = |at: usize| bytes.get(at..)?.first_chunk::<32>().copied();
        let digest: [u8; 32] = Sha256::digest(&bytes[..at::DIGEST]).into();
        if !bytes.starts_with(&SUPERBLOCK_MAGIC) || long(at::DIGEST)? != digest {
            return None;
        }
        Some(Superblock {
            version: bytes.get(at::VERSION..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))?,
            least_reader: bytes.get(at::LEAST_READER..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))?,
            turn: wide(at::TURN)?,
            device_id: *bytes.get(at::DEVICE_ID..)?.first_chunk()?,
            salt: long(at::SALT)?,
            model: long(at::MODEL)?,
            file: long(at::FILE)?,
            area_offset: wide(at::AREA_OFFSET)?,
            area_bytes: wide(at::AREA_BYTES)?,
            start: Place {
                offset: wide(at::START)?,
                frame: wide(at::START_FRAME)?,
                sequence: wide(at::START_SEQUENCE)?,
                chain: long(at::START_CHAIN)?,
            },
            reach: wide(at::REACH)?,
        })
    }

    /// Whether it has fields that this version does not know, and would lose if it wrote the next one.
    pub fn is_newer(&self) -> bool {
        u64::from(self.version) > FORMAT_VERSION
    }

    /// Whether its numbers make sense.
    pub fn is_sound(&self) -> bool {
        let whole = |number: u64| number.is_multiple_of(BLOCK);
        self.area_offset == AREA_START
            && self.area_bytes > 0
            && [self.area_bytes, self.start.offset, self.reach].into_iter().all(whole)
            && self.reach >= self.start.offset
            && self.area_offset.checked_add(self.area_bytes).is_some()
            && self.start.offset.checked_add(self.area_bytes).is_some_and(|end| end < 1 << 62)
    }

    /// Writes it into its block, and waits until it is durable.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, device: &mut dyn BlockDevice) -> Result<(), JournalError> {
        let mut block = [0; BLOCK as usize];
        block[..BYTES].copy_from_slice(&self.encode());
        device.write(self.turn % 2 * BLOCK, &block)?;
        if !planted::is(Bug::FreedSpaceReused) {
            device.flush()?;
        }
        Ok(())
    }
}

/// The superblocks of a device.
pub struct Superblocks {
    /// The right one with the highest turn.
    pub current: Option<Superblock>,
    /// The other one, if it is right.
    pub other: Option<Superblock>,
    /// Whether a block begins with the magic.
    pub magic: bool,
}

impl Superblocks {
    /// Reads both.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn read(device: &dyn BlockDevice) -> Result<Self, JournalError> {
        let mut blocks = vec![0; 2 * BLOCK as usize];
        device.read(0, &mut blocks)?;
        let halves = blocks.split_at(BLOCK as usize);
        let magic = halves.0.starts_with(&SUPERBLOCK_MAGIC) || halves.1.starts_with(&SUPERBLOCK_MAGIC);
        let (current, other) = match (Superblock::decode(halves.0), Superblock::decode(halves.1)) {
            (Some(a), Some(b)) if b.turn > a.turn => (Some(b), Some(a)),
            (Some(a), b) => (Some(a), b),
            (None, b) => (b, None),
        };
        Ok(Superblocks { current, other, magic })
    }
}
