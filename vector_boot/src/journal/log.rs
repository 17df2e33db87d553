//! The log: two copies of its bounds, then the entries one after another. Only the older copy of the bounds is ever
//! overwritten, so a writer may be interrupted at any byte.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use crate::crc::crc32c;

use super::entry::{sum_of, PayloadSum, HEAD_BYTES};
use super::memory_file::MemoryFile;
use super::storage::LogStorage;
use super::{EntryHead, Journal, JournalError, JournalReason, LogEntry, Visit};

/// Offset of the first entry of a new log.
const FIRST_ENTRY: u64 = 4096;
const BOUNDS_BYTES: usize = 48;
const BOUNDS_CRC: usize = BOUNDS_BYTES - 4;
const BOUNDS_COPIES: [u64; 2] = [0, 512];
const MAGIC: u32 = u32::from_le_bytes(*b"VBJL");
/// Bytes that are summed and then written.
const CACHED_BYTES: usize = 256 << 10;
/// Entries start at multiples of this.
const ALIGNMENT: u64 = 8;

/// Where the log starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    /// Number of this version of the bounds: the copy with the higher number is valid.
    turn: u64,
    start: u64,
    end: u64,
    /// Sequence number of the entry at `start`, and of the next one.
    first: u64,
    next: u64,
}

impl Bounds {
    fn encode(&self) -> [u8; BOUNDS_BYTES] {
        let mut bytes = [0; BOUNDS_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        let numbers = [self.turn, self.start, self.end, self.first, self.next];
        for (place, number) in bytes[4..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        // The checksum is written last: a half-written copy does not have it.
        let crc = crc32c(&bytes[..BOUNDS_CRC]);
        bytes[BOUNDS_CRC..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; BOUNDS_BYTES]) -> Option<Self> {
        let short = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
        let wide = |index: usize| bytes.get(4 + 8 * index..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        if short(0)? != MAGIC || short(BOUNDS_CRC)? != crc32c(&bytes[..BOUNDS_CRC]) {
            return None;
        }
        Some(Bounds { turn: wide(0)?, start: wide(1)?, end: wide(2)?, first: wide(3)?, next: wide(4)? })
    }
}

/// An open log.
pub struct Log {
    storage: Box<dyn LogStorage>,
    /// The bounds that are written.
    bounds: Bounds,
    /// End of the open batch, and the sequence number after it.
    batch: Position,
    /// Up to where the entries are known.
    known: Position,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    offset: u64,
    sequence: u64,
}

impl Log {
    /// Opens the log in a memory file, which may exist longer than the process.
    ///
    /// # Errors
    /// If it cannot be read or written, or holds anything else.
    pub fn in_memory(file: OwnedFd) -> Result<Box<dyn Journal>, JournalError> {
        let storage = Box::new(MemoryFile::open(File::from(file))?);
        Log::open(storage).map(|log| Box::new(log) as Box<dyn Journal>)
    }

    /// Opens the log in this storage, or creates an empty one if the storage is all zero.
    ///
    /// # Errors
    /// If the storage fails, or holds anything else.
    pub fn open(mut storage: Box<dyn LogStorage>) -> Result<Self, JournalError> {
        let bounds = match read_bounds(&*storage)? {
            Some(bounds) => {
                // A writer that was interrupted in `remove_before` may not have discarded the old entries.
                storage.discard(FIRST_ENTRY, bounds.start.saturating_sub(FIRST_ENTRY));
                bounds
            }
            None => {
                let bounds = Bounds { turn: 1, start: FIRST_ENTRY, end: FIRST_ENTRY, first: 0, next: 0 };
                storage.write(BOUNDS_COPIES[1], &bounds.encode())?;
                bounds
            }
        };
        Ok(Log { storage, bounds, batch: end_of(&bounds), known: start_of(&bounds) })
    }

    fn head(&self, Position { offset, sequence }: Position) -> Result<EntryHead, JournalError> {
        let mut bytes = [0; HEAD_BYTES];
        self.storage.read(offset, &mut bytes)?;
        let inside = |head: &EntryHead| {
            head.sequence == sequence
                && head.payload_bytes <= self.bounds.end.saturating_sub(offset)
                && next_entry(offset, head.payload_bytes) <= self.bounds.end
        };
        EntryHead::decode(&bytes).filter(inside).ok_or_else(|| damaged(sequence))
    }

    fn set_bounds(&mut self, mut bounds: Bounds) -> io::Result<()> {
        bounds.turn = self.bounds.turn + 1;
        self.storage.write(BOUNDS_COPIES[(bounds.turn % 2) as usize], &bounds.encode())?;
        self.bounds = bounds;
        Ok(())
    }
}

impl Journal for Log {
    fn read_on(&mut self, visit: &mut Visit<'_>) -> Result<(), JournalError> {
        self.bounds = read_bounds(&*self.storage)?.ok_or_else(|| damaged(self.known.sequence))?;
        self.batch = end_of(&self.bounds);
        self.storage.refresh()?;
        self.storage.discard(FIRST_ENTRY, self.bounds.start.saturating_sub(FIRST_ENTRY));
        if self.known.sequence < self.bounds.first {
            self.known = start_of(&self.bounds);
        }
        while self.known.sequence != self.bounds.next {
            let head = self.head(self.known)?;
            visit(self.known.offset, &head)?;
            let offset = next_entry(self.known.offset, head.payload_bytes);
            self.known = Position { offset, sequence: head.sequence + 1 };
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn entry(&self, offset: u64) -> Result<LogEntry, JournalError> {
        let mut bytes = [0; HEAD_BYTES];
        self.storage.read(offset, &mut bytes)?;
        let head = EntryHead::decode(&bytes).ok_or_else(|| damaged(self.bounds.next))?;
        let len = usize::try_from(head.payload_bytes).ok().filter(|len| *len as u64 <= self.batch.offset);
        let len = len.ok_or_else(|| damaged(head.sequence))?;
        let payload = self.storage.payload(offset + HEAD_BYTES as u64, len)?;
        if sum_of(&[&payload]) != head.payload_sum {
            return Err(damaged(head.sequence));
        }
        Ok(LogEntry { head, payload })
    }

    fn append(&mut self, mut head: EntryHead, payload: &[&[u8]]) -> Result<u64, JournalError> {
        let Position { offset, sequence } = self.batch;
        head.sequence = sequence;
        head.payload_bytes = payload.iter().map(|piece| piece.len() as u64).sum();
        let mut at = offset + HEAD_BYTES as u64;
        let mut sum = PayloadSum::default();
        // In pieces that stay in the cache between their sum and the copy.
        for piece in payload.iter().flat_map(|piece| piece.chunks(CACHED_BYTES)) {
            sum.add(piece);
            self.storage.write(at, piece)?;
            at += piece.len() as u64;
        }
        head.payload_sum = sum.finish();
        self.storage.write(offset, &head.encode())?;
        self.batch = Position { offset: next_entry(offset, head.payload_bytes), sequence: sequence + 1 };
        Ok(offset)
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        if self.batch != end_of(&self.bounds) {
            let Position { offset, sequence } = self.batch;
            self.set_bounds(Bounds { end: offset, next: sequence, ..self.bounds })?;
            self.known = self.batch;
        }
        Ok(())
    }

    fn abort(&mut self) {
        self.batch = end_of(&self.bounds);
    }

    fn remove_before(&mut self, offset: u64, sequence: u64) -> Result<(), JournalError> {
        let old = self.bounds.start;
        self.set_bounds(Bounds { start: offset, first: sequence, ..self.bounds })?;
        self.storage.discard(old, offset - old);
        self.storage.trim();
        Ok(())
    }

    fn start(&self) -> u64 {
        self.bounds.start
    }

    fn end(&self) -> u64 {
        self.batch.offset
    }

    fn next_sequence(&self) -> u64 {
        self.batch.sequence
    }

    fn drop_spare(&mut self) -> u64 {
        self.storage.drop_spare()
    }

    fn capacity(&self) -> Option<u64> {
        None
    }

    fn free(&self) -> u64 {
        u64::MAX
    }

    fn room(&self, _: u64) -> u64 {
        u64::MAX
    }

    fn durable(&self) -> bool {
        false
    }

    fn device_id(&self) -> Option<[u8; 16]> {
        None
    }

    fn boot(&self) -> u64 {
        0
    }

    fn torn(&self) -> Option<u64> {
        None
    }

    fn refusal(&self) -> Option<JournalError> {
        None
    }
}

/// The newest valid bounds; `None` if the storage was never written.
fn read_bounds(storage: &dyn LogStorage) -> Result<Option<Bounds>, JournalError> {
    let mut copies = [[0; BOUNDS_BYTES]; 2];
    for (bytes, offset) in copies.iter_mut().zip(BOUNDS_COPIES) {
        storage.read(offset, bytes)?;
    }
    let found = copies.iter().filter_map(Bounds::decode).max_by_key(|bounds| bounds.turn);
    if found.is_none() && copies.iter().flatten().any(|byte| *byte != 0) {
        return Err(JournalError::new(JournalReason::Damaged, "both copies of the journal's bounds are damaged"));
    }
    Ok(found)
}

fn start_of(bounds: &Bounds) -> Position {
    Position { offset: bounds.start, sequence: bounds.first }
}

fn end_of(bounds: &Bounds) -> Position {
    Position { offset: bounds.end, sequence: bounds.next }
}

fn next_entry(offset: u64, payload_bytes: u64) -> u64 {
    (offset + HEAD_BYTES as u64).saturating_add(payload_bytes).next_multiple_of(ALIGNMENT)
}

fn damaged(sequence: u64) -> JournalError {
    JournalError::new(JournalReason::Damaged, format!("entry {sequence} of the journal is damaged"))
}

#[cfg(test)]
mod tests;
