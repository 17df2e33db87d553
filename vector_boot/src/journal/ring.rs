//! The tensor `cortex_journal`: a ring of the newest records, in shared memory that exists longer than the worker.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::crc::crc32c;

use super::{EntryHead, EntryKind, ORIGIN_BYTES};
use crate::protocol::RecordKind;

/// Bytes of the tensor.
pub const BYTES: usize = 1 << 20;
/// 32-bit words of the ring and, behind it, of one 64-bit number for each record, for which the record has no room: the
/// confidence of a mutation, or the generation that a return restored.
pub const WORDS: usize = BYTES / 4 + 2 * CAPACITY;

const MAGIC: u32 = u32::from_le_bytes(*b"CJ01");
const RECORD_BYTES: usize = 64;
const RECORD_WORDS: usize = RECORD_BYTES / 4;
/// Records that the ring holds; the header has the size of one.
const CAPACITY: usize = BYTES / RECORD_BYTES - 1;
/// Stands for no generation behind the ring.
const NO_GENERATION: u64 = u64::MAX;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it is about.
    pub kind: RecordKind,
    /// Error code of a refused change; 0 for an applied one.
    pub code: i16,
    /// Generation after it.
    pub generation: u64,
    /// Microseconds since the machine started.
    pub uptime_us: u64,
    /// The id of the request; zero if there was none.
    pub id: [u8; 16],
    /// Number of edits of a mutation.
    pub edits: u32,
    /// Number of bytes that differ from before.
    pub changed_bytes: u32,
    /// Who made the change, cut to 16 bytes.
    pub origin: String,
    /// Confidence of a mutation.
    pub confidence: Option<f64>,
    /// The generation whose contents came back with a rollback or an expired lease.
    pub restored: Option<u64>,
}

impl Record {
    /// A record of something that was applied, without the details of a mutation.
    pub fn plain(kind: RecordKind, generation: u64, uptime_us: u64) -> Self {
        let (id, origin, confidence, restored) = ([0; 16], String::new(), None, None);
        Record { kind, code: 0, generation, uptime_us, id, edits: 0, changed_bytes: 0, origin, confidence, restored }
    }

    /// The record of an entry of the log; `None` if its kind has no records.
    pub fn of_entry(head: &EntryHead) -> Option<Self> {
        let kind = match head.kind {
            EntryKind::Mutate => RecordKind::Mutate,
            EntryKind::Rollback => RecordKind::Rollback,
            EntryKind::Promote => RecordKind::Promote,
            EntryKind::LeaseExpired => RecordKind::LeaseExpired,
            EntryKind::Renew | EntryKind::Image => return None,
        };
        let origin = head.origin.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Record {
            id: head.id,
            edits: head.edits,
            changed_bytes: u32::try_from(head.changed_bytes).unwrap_or(u32::MAX),
            origin: String::from_utf8_lossy(origin).into_owned(),
            confidence: Some(head.confidence).filter(|_| kind == RecordKind::Mutate),
            restored: Some(head.target).filter(|_| returns(kind)),
            ..Record::plain(
                kind,
                if kind == RecordKind::Promote { head.target } else { head.generation },
                head.uptime_us,
            )
        })
    }

    /// The number that is kept behind the ring.
    fn beside(&self) -> u64 {
        match returns(self.kind) {
            true => self.restored.unwrap_or(NO_GENERATION),
            false => self.confidence.unwrap_or(f64::NAN).to_bits(),
        }
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[4] = self.kind as u8;
        bytes[5] = u8::from(self.code != 0);
        bytes[6..8].copy_from_slice(&self.code.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.uptime_us.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.id);
        bytes[40..44].copy_from_slice(&self.edits.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.changed_bytes.to_le_bytes());
        bytes[48..].copy_from_slice(&origin_bytes(&self.origin));
        let crc = crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES], beside: u64) -> Option<Self> {
        fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
            bytes.get(offset..)?.first_chunk().copied()
        }
        if u32::from_le_bytes(at(bytes, 0)?) != crc32c(&bytes[4..]) {
            return None;
        }
        let origin = bytes[48..].split(|byte| *byte == 0).next().unwrap_or_default();
        let kind = RecordKind::ALL.into_iter().find(|kind| *kind as u8 == bytes[4])?;
        let confidence = Some(f64::from_bits(beside)).filter(|confidence| !confidence.is_nan());
        Some(Record {
            kind,
            code: i16::from_le_bytes(at(bytes, 6)?),
            generation: u64::from_le_bytes(at(bytes, 8)?),
            uptime_us: u64::from_le_bytes(at(bytes, 16)?),
            id: at(bytes, 24)?,
            edits: u32::from_le_bytes(at(bytes, 40)?),
            changed_bytes: u32::from_le_bytes(at(bytes, 44)?),
            origin: String::from_utf8_lossy(origin).into_owned(),
            confidence: confidence.filter(|_| !returns(kind)),
            restored: Some(beside).filter(|beside| returns(kind) && *beside != NO_GENERATION),
        })
    }
}

/// Whether records of this kind say which generation was restored.
fn returns(kind: RecordKind) -> bool {
    matches!(kind, RecordKind::Rollback | RecordKind::LeaseExpired)
}

/// The start of a text that fits a record or an entry, padded with zeros.
pub fn origin_bytes(text: &str) -> [u8; ORIGIN_BYTES] {
    let (mut bytes, origin) = ([0; ORIGIN_BYTES], cut(text));
    bytes[..origin.len()].copy_from_slice(origin.as_bytes());
    bytes
}

/// The start of a text that fits the record, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ORIGIN_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A view of the ring. Only one process may write it.
#[derive(Clone, Copy)]
pub struct Ring<'a>(&'a [AtomicU32]);

impl<'a> Ring<'a> {
    /// The ring in these words, [`WORDS`] of them; with fewer, nothing is kept.
    pub fn new(words: &'a [AtomicU32]) -> Self {
        Ring(words)
    }

    fn get(&self, at: usize) -> u32 {
        self.0.get(at).map_or(0, |cell| cell.load(Relaxed))
    }

    fn set(&self, at: usize, value: u32) {
        if let Some(cell) = self.0.get(at) {
            cell.store(value, Relaxed);
        }
    }

    /// Writes the header of an empty ring.
    pub fn initialise(&self) {
        self.set(0, MAGIC);
        self.set(1, RECORD_BYTES as u32);
    }

    /// Removes all records.
    pub fn clear(&self) {
        self.set(2, 0);
        self.set(3, 0);
    }

    /// Number of records ever written.
    pub fn written(&self) -> u64 {
        u64::from(self.get(2)) | u64::from(self.get(3)) << 32
    }

    /// Number of the oldest record in the ring.
    pub fn oldest(&self) -> u64 {
        self.written().saturating_sub(CAPACITY as u64)
    }

    fn place(number: u64) -> usize {
        (number % CAPACITY as u64) as usize
    }

    /// Appends a record; it replaces the oldest one if the ring is full.
    pub fn push(&self, record: &Record) {
        let number = self.written();
        let place = Self::place(number);
        for (index, word) in record.encode().chunks_exact(4).enumerate() {
            self.set((place + 1) * RECORD_WORDS + index, word.try_into().map_or(0, u32::from_le_bytes));
        }
        let beside = record.beside();
        self.set(BYTES / 4 + 2 * place, beside as u32);
        self.set(BYTES / 4 + 2 * place + 1, (beside >> 32) as u32);
        self.set(2, (number + 1) as u32);
        self.set(3, ((number + 1) >> 32) as u32);
    }

    /// The record with this number; `None` if it was overwritten, is not written yet, or is damaged.
    pub fn record(&self, number: u64) -> Option<Record> {
        if number < self.oldest() || number >= self.written() {
            return None;
        }
        let place = Self::place(number);
        let mut bytes = [0; RECORD_BYTES];
        for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.get((place + 1) * RECORD_WORDS + index).to_le_bytes());
        }
        let halves = [0, 1].map(|half| u64::from(self.get(BYTES / 4 + 2 * place + half)));
        Record::decode(&bytes, halves[0] | halves[1] << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU32> {
        (0..WORDS).map(|_| AtomicU32::new(0)).collect()
    }

    fn record(number: u64) -> Record {
        Record {
            code: if number.is_multiple_of(3) { -32602 } else { 0 },
            id: [number as u8; 16],
            edits: 7,
            changed_bytes: u32::MAX,
            origin: "tester".into(),
            confidence: Some(0.9),
            ..Record::plain(RecordKind::Mutate, number, number * 10)
        }
    }

    #[test]
    fn records_come_back_until_they_are_overwritten() {
        let words = words();
        let ring = Ring::new(&words);
        ring.initialise();
        let total = CAPACITY as u64 + 100;
        (0..total).for_each(|number| ring.push(&record(number)));
        assert_eq!((ring.written(), ring.oldest()), (total, 100));
        assert_eq!(ring.record(99), None);
        assert_eq!(ring.record(100), Some(record(100)));
        assert_eq!(ring.record(total - 1), Some(record(total - 1)));
        assert_eq!(ring.record(total), None);
        assert_eq!(words[0].load(Relaxed).to_le_bytes(), *b"CJ01");
    }

    #[test]
    fn a_return_says_what_it_restored_and_a_refused_one_nothing() {
        let words = words();
        let ring = Ring::new(&words);
        for (number, kind) in [RecordKind::Rollback, RecordKind::LeaseExpired].into_iter().enumerate() {
            for (step, restored) in [Some(0), Some(1 << 52), None].into_iter().enumerate() {
                let record = Record { restored, ..Record::plain(kind, 7, 1) };
                ring.push(&record);
                assert_eq!(ring.record((3 * number + step) as u64), Some(record));
            }
        }
    }

    #[test]
    fn a_damaged_record_is_not_shown() {
        let words = words();
        let ring = Ring::new(&words);
        ring.push(&record(1));
        assert!(ring.record(0).is_some());
        words[RECORD_WORDS + 3].fetch_xor(1, Relaxed);
        assert_eq!(ring.record(0), None);
    }

    #[test]
    fn an_origin_is_cut_at_a_character() {
        assert_eq!(cut("0123456789abcdefg"), "0123456789abcdef");
        assert_eq!(cut("0123456789abcdéf"), "0123456789abcd\u{e9}");
        assert_eq!(cut("0123456789abcdeé"), "0123456789abcde");
        let words = words();
        let ring = Ring::new(&words);
        let exact = Record { origin: "0123456789abcdef".into(), ..record(2) };
        ring.push(&exact);
        assert_eq!(ring.record(0), Some(exact));
    }
}
