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
        if let Some(range) = self.bytes.lock().unwrap().get_mut(offset as usize..(offset + len) as usize) {
            range.fill(0);
        }
    }
}

fn open(bytes: &Bytes) -> Result<Log, JournalError> {
    Log::open(Box::new(bytes.clone()))
}

/// Appends one entry as a batch.
fn append(log: &mut Log, head: EntryHead, payload: &[&[u8]]) -> Result<u64, JournalError> {
    let offset = log.append(head, payload)?;
    log.commit()?;
    Ok(offset)
}

/// The sequence numbers and payloads of the entries that were not read yet.
fn entries(log: &mut Log) -> Result<(Vec<u64>, Vec<Vec<u8>>), JournalError> {
    let (mut sequences, mut offsets) = (Vec::new(), Vec::new());
    log.read_on(&mut |offset, head| {
        sequences.push(head.sequence);
        offsets.push(offset);
        Ok(())
    })?;
    let payloads = offsets.into_iter().map(|offset| log.entry(offset).map(|entry| entry.payload.to_vec()));
    Ok((sequences, payloads.collect::<Result<_, _>>()?))
}

/// The payloads of all entries.
fn payloads(bytes: &Bytes) -> Result<Vec<Vec<u8>>, JournalError> {
    Ok(entries(&mut open(bytes)?)?.1)
}

fn lengths(bytes: &Bytes) -> Vec<usize> {
    payloads(bytes).unwrap().iter().map(Vec::len).collect()
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let bytes = Bytes::default();
    let mut log = open(&bytes).unwrap();
    let mut offsets = Vec::new();
    for length in [0usize, 1, 7, 8, 5000] {
        let payload = vec![length as u8; length];
        let pieces = [&payload[..length / 2], &payload[length / 2..]];
        offsets.push(append(&mut log, head(EntryKind::Mutate, 0), &pieces).unwrap());
    }
    let mut log = open(&bytes).unwrap();
    let (sequences, payloads) = entries(&mut log).unwrap();
    assert_eq!(payloads.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 7, 8, 5000]);
    assert_eq!((sequences, log.next_sequence()), (vec![0, 1, 2, 3, 4], 5));
    log.remove_before(offsets[3], 3).unwrap();
    assert_eq!(lengths(&bytes), [8, 5000]);
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    let bytes = Bytes::default();
    let mut log = open(&bytes).unwrap();
    log.append(head(EntryKind::Mutate, 0), &[b"1"]).unwrap();
    let second = log.append(head(EntryKind::Mutate, 0), &[b"22"]).unwrap();
    assert_eq!((log.entry(second).unwrap().payload.to_vec(), lengths(&bytes)), (b"22".to_vec(), vec![]));
    log.abort();
    log.append(head(EntryKind::Mutate, 0), &[b"333"]).unwrap();
    log.append(head(EntryKind::Mutate, 0), &[b"4444"]).unwrap();
    log.commit().unwrap();
    assert_eq!((lengths(&bytes), log.next_sequence()), (vec![3, 4], 2));
}

#[test]
fn what_another_process_has_appended_is_shown_once() {
    let bytes = Bytes::default();
    let (mut old, mut new) = (open(&bytes).unwrap(), open(&bytes).unwrap());
    append(&mut old, head(EntryKind::Mutate, 0), &[b"1"]).unwrap();
    assert_eq!(entries(&mut new).unwrap(), (vec![0], vec![b"1".to_vec()]));
    for payload in [b"22", b"33"] {
        append(&mut old, head(EntryKind::Mutate, 0), &[payload]).unwrap();
    }
    assert_eq!(entries(&mut new).unwrap().0, [1, 2]);
    append(&mut new, head(EntryKind::Mutate, 0), &[b"4"]).unwrap();
    assert!(entries(&mut new).unwrap().0.is_empty());
    assert_eq!(lengths(&bytes), [1, 2, 2, 1]);
}

#[test]
fn a_writer_may_die_at_any_byte() {
    let payload = [3u8; 40];
    for budget in 0..400 {
        let bytes = Bytes::default();
        append(&mut open(&bytes).unwrap(), head(EntryKind::Rollback, 0), &[b"first"]).unwrap();
        *bytes.budget.lock().unwrap() = Some(budget);
        let written = append(&mut open(&bytes).unwrap(), head(EntryKind::Mutate, 1), &[&payload]).is_ok();
        *bytes.budget.lock().unwrap() = None;
        let expected: &[&[u8]] = if written { &[b"first", &payload] } else { &[b"first"] };
        assert_eq!(payloads(&bytes).unwrap(), expected, "budget {budget}");
        append(&mut open(&bytes).unwrap(), head(EntryKind::Mutate, 2), &[b"next"]).unwrap();
        assert_eq!(lengths(&bytes).len(), expected.len() + 1);
    }
}

#[test]
fn every_flipped_bit_is_seen_or_harmless() {
    let bytes = Bytes::default();
    let mut log = open(&bytes).unwrap();
    append(&mut log, head(EntryKind::Mutate, 0), &[b"first"]).unwrap();
    append(&mut log, head(EntryKind::Mutate, 1), &[b"second"]).unwrap();
    let intact = payloads(&bytes).unwrap();
    let len = bytes.bytes.lock().unwrap().len();
    for bit in 0..8 * len {
        bytes.bytes.lock().unwrap()[bit / 8] ^= 1 << (bit % 8);
        if let Ok(found) = payloads(&bytes) {
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
