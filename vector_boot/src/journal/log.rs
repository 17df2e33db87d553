//! The log: two copies of its bounds, then the entries one after another. Only the older copy of the bounds is ever
//! overwritten, so a writer may be interrupted at any byte.

use std::io;

use crc32c::{crc32c, crc32c_append};

use super::entry::HEAD_BYTES;
use super::storage::LogStorage;
use super::{EntryHead, LogEntry};

/// Offset of the first entry of a new log.
const FIRST_ENTRY: u64 = 4096;
const BOUNDS_BYTES: usize = 48;
const BOUNDS_CRC: usize = BOUNDS_BYTES - 4;
const BOUNDS_COPIES: [u64; 2] = [0, 512];
const MAGIC: u32 = u32::from_le_bytes(*b"VBJL");
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
    bounds: Bounds,
}

impl Log {
    /// Opens the log in this storage, or creates an empty one if the storage is all zero.
    ///
    /// # Errors
    /// If the storage fails, or holds anything else.
    pub fn open(mut storage: Box<dyn LogStorage>) -> io::Result<Self> {
        let mut copies = [[0; BOUNDS_BYTES]; 2];
        for (bytes, offset) in copies.iter_mut().zip(BOUNDS_COPIES) {
            storage.read(offset, bytes)?;
        }
        let found = copies.iter().filter_map(Bounds::decode).max_by_key(|bounds| bounds.turn);
        if let Some(bounds) = found {
            // A writer that was interrupted in `remove_before` may not have discarded the old entries.
            storage.discard(FIRST_ENTRY, bounds.start.saturating_sub(FIRST_ENTRY));
            return Ok(Log { storage, bounds });
        }
        if copies.iter().flatten().any(|byte| *byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "both copies of the journal's bounds are damaged"));
        }
        let bounds = Bounds { turn: 1, start: FIRST_ENTRY, end: FIRST_ENTRY, first: 0, next: 0 };
        storage.write(BOUNDS_COPIES[1], &bounds.encode())?;
        Ok(Log { storage, bounds })
    }

    /// Bytes from the first entry to the end of the last.
    pub fn size(&self) -> u64 {
        self.bounds.end - self.bounds.start
    }

    /// Sequence number of the next entry.
    pub fn next_sequence(&self) -> u64 {
        self.bounds.next
    }

    /// Offset of the end of the last entry.
    pub fn end(&self) -> u64 {
        self.bounds.end
    }

    /// Offset of the first entry.
    pub fn start(&self) -> u64 {
        self.bounds.start
    }

    /// All heads in order, with their offsets. Ends with an error at the first damaged one.
    pub fn heads(&self) -> impl Iterator<Item = io::Result<(u64, EntryHead)>> + '_ {
        let (mut offset, mut sequence) = (self.bounds.start, self.bounds.first);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || sequence == self.bounds.next {
                return None;
            }
            let head = self.head(offset, sequence);
            failed = head.is_err();
            Some(head.map(|head| {
                let at = offset;
                (offset, sequence) = (next_entry(offset, head.payload_bytes), sequence + 1);
                (at, head)
            }))
        })
    }

    fn head(&self, offset: u64, sequence: u64) -> io::Result<EntryHead> {
        let mut bytes = [0; HEAD_BYTES];
        self.storage.read(offset, &mut bytes)?;
        let inside = |head: &EntryHead| {
            head.sequence == sequence
                && head.payload_bytes <= self.bounds.end.saturating_sub(offset)
                && next_entry(offset, head.payload_bytes) <= self.bounds.end
        };
        EntryHead::decode(&bytes).filter(inside).ok_or_else(|| damaged(sequence))
    }

    /// The entry at this offset; the checksum of its payload is verified.
    ///
    /// # Errors
    /// If the storage fails or the entry is damaged.
    pub fn entry(&self, offset: u64) -> io::Result<LogEntry> {
        let mut bytes = [0; HEAD_BYTES];
        self.storage.read(offset, &mut bytes)?;
        let head = EntryHead::decode(&bytes).ok_or_else(|| damaged(self.bounds.next))?;
        let len = usize::try_from(head.payload_bytes).ok().filter(|len| *len as u64 <= self.bounds.end);
        let mut payload = vec![0; len.ok_or_else(|| damaged(head.sequence))?];
        self.storage.read(offset + HEAD_BYTES as u64, &mut payload)?;
        if crc32c(&payload) != head.payload_crc {
            return Err(damaged(head.sequence));
        }
        Ok(LogEntry { head, payload })
    }

    /// Appends an entry whose payload is these pieces one after another, and sets sequence, length and checksum in
    /// `head`. Returns the offset of the entry.
    ///
    /// # Errors
    /// If the storage fails; the log has not changed then.
    pub fn append(&mut self, mut head: EntryHead, payload: &[&[u8]]) -> io::Result<u64> {
        head.sequence = self.bounds.next;
        head.payload_bytes = payload.iter().map(|piece| piece.len() as u64).sum();
        head.payload_crc = payload.iter().fold(0, |crc, piece| crc32c_append(crc, piece));
        let offset = self.bounds.end;
        self.storage.write(offset, &head.encode())?;
        let mut at = offset + HEAD_BYTES as u64;
        for piece in payload {
            self.storage.write(at, piece)?;
            at += piece.len() as u64;
        }
        let end = next_entry(offset, head.payload_bytes);
        self.set_bounds(Bounds { end, next: head.sequence + 1, ..self.bounds })?;
        Ok(offset)
    }

    /// Removes all entries before the one at `offset`, whose sequence number is `sequence`.
    ///
    /// # Errors
    /// If the storage fails; the log has not changed then.
    pub fn remove_before(&mut self, offset: u64, sequence: u64) -> io::Result<()> {
        let old = self.bounds.start;
        self.set_bounds(Bounds { start: offset, first: sequence, ..self.bounds })?;
        self.storage.discard(old, offset - old);
        Ok(())
    }

    fn set_bounds(&mut self, mut bounds: Bounds) -> io::Result<()> {
        bounds.turn = self.bounds.turn + 1;
        self.storage.write(BOUNDS_COPIES[(bounds.turn % 2) as usize], &bounds.encode())?;
        self.bounds = bounds;
        Ok(())
    }
}

fn next_entry(offset: u64, payload_bytes: u64) -> u64 {
    (offset + HEAD_BYTES as u64).saturating_add(payload_bytes).next_multiple_of(ALIGNMENT)
}

fn damaged(sequence: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {sequence} of the journal is damaged"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::journal::entry::tests::head;
    use crate::journal::EntryKind;

    /// Shared bytes in memory that can be made to fail.
    #[derive(Clone, Default)]
    struct Bytes {
        bytes: Arc<Mutex<Vec<u8>>>,
        /// Bytes that may still be written; then a write is cut short and fails.
        budget: Arc<Mutex<Option<usize>>>,
    }

    impl LogStorage for Bytes {
        fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let bytes = self.bytes.lock().unwrap();
            for (index, place) in buffer.iter_mut().enumerate() {
                *place = bytes.get(offset as usize + index).copied().unwrap_or(0);
            }
            Ok(())
        }

        fn write(&mut self, offset: u64, new: &[u8]) -> io::Result<()> {
            let mut budget = self.budget.lock().unwrap();
            let count = budget.map_or(new.len(), |left| left.min(new.len()));
            if let Some(left) = budget.as_mut() {
                *left -= count;
            }
            let mut bytes = self.bytes.lock().unwrap();
            let end = offset as usize + count;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(&new[..count]);
            if count < new.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn discard(&mut self, offset: u64, len: u64) {
            self.bytes.lock().unwrap()[offset as usize..(offset + len) as usize].fill(0);
        }
    }

    fn open(bytes: &Bytes) -> io::Result<Log> {
        Log::open(Box::new(bytes.clone()))
    }

    fn payloads(log: &Log) -> io::Result<Vec<Vec<u8>>> {
        log.heads().map(|found| log.entry(found?.0).map(|entry| entry.payload)).collect()
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let bytes = Bytes::default();
        let mut log = open(&bytes).unwrap();
        let mut offsets = Vec::new();
        for length in [0usize, 1, 7, 8, 5000] {
            let payload = vec![length as u8; length];
            offsets.push(
                log.append(head(EntryKind::Mutate, 0), &[&payload[..length / 2], &payload[length / 2..]]).unwrap(),
            );
        }
        let log = open(&bytes).unwrap();
        assert_eq!(payloads(&log).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 7, 8, 5000]);
        let sequences: Vec<_> = log.heads().map(|found| found.unwrap().1.sequence).collect();
        assert_eq!((sequences, log.next_sequence()), (vec![0, 1, 2, 3, 4], 5));
        let mut log = log;
        log.remove_before(offsets[3], 3).unwrap();
        let log = open(&bytes).unwrap();
        assert_eq!(payloads(&log).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [8, 5000]);
    }

    #[test]
    fn a_writer_may_die_at_any_byte() {
        let payload = [3u8; 40];
        for budget in 0..400 {
            let bytes = Bytes::default();
            open(&bytes).unwrap().append(head(EntryKind::Rollback, 0), &[b"first"]).unwrap();
            *bytes.budget.lock().unwrap() = Some(budget);
            let written = open(&bytes).unwrap().append(head(EntryKind::Mutate, 1), &[&payload]).is_ok();
            *bytes.budget.lock().unwrap() = None;
            let mut log = open(&bytes).unwrap();
            let expected: &[&[u8]] = if written { &[b"first", &payload] } else { &[b"first"] };
            assert_eq!(payloads(&log).unwrap(), expected, "budget {budget}");
            log.append(head(EntryKind::Mutate, 2), &[b"next"]).unwrap();
            assert_eq!(payloads(&open(&bytes).unwrap()).unwrap().len(), expected.len() + 1);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen_or_harmless() {
        let bytes = Bytes::default();
        let mut log = open(&bytes).unwrap();
        log.append(head(EntryKind::Mutate, 0), &[b"first"]).unwrap();
        log.append(head(EntryKind::Mutate, 1), &[b"second"]).unwrap();
        let intact = payloads(&log).unwrap();
        let len = bytes.bytes.lock().unwrap().len();
        for bit in 0..8 * len {
            bytes.bytes.lock().unwrap()[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = open(&bytes).and_then(|log| payloads(&log)) {
                // If the newest copy of the bounds is damaged, the older one is valid: the log without its last entry.
                assert!(found == intact || found == intact[..1], "bit {bit}");
            }
            bytes.bytes.lock().unwrap()[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn something_foreign_is_refused() {
        let bytes = Bytes::default();
        bytes.bytes.lock().unwrap().extend([1; 600]);
        assert!(open(&bytes).is_err());
    }
}
