//! The memory file (memfd) of a log, which may exist longer than the process. Its bytes lie in segments, which are used again: to
//! get new pages takes the kernel about as long as to copy bytes to them, and the file stays as short as the log.
//!
//! The first page is the log's own. Behind it, a table says which segment of the log each place of the file holds. It is written
//! before the bytes are, and a place that no longer holds what the table says is only written after the table. So no two
//! places ever hold the same segment, and a process may die at any time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::storage::LogStorage;
use super::Payload;
use crate::sys::memory::{file_len, punch_hole, Mapping};
use crate::tensor::memory::PAGE;

/// Bytes of the log that lie where they are.
const FIXED: u64 = PAGE as u64;
/// Bytes of a segment.
const SEGMENT: u64 = 1 << 20;
/// Places that the table has room for.
const TABLE_PLACES: u64 = 1 << 16;
/// Places that are used: the file stays below 64 GiB, the most that a worker may write.
const PLACES: u64 = TABLE_PLACES - 1;
/// Bytes of an entry of the table: the number of a segment and 1, or 0.
const NUMBER: u64 = 8;
/// Where the first place is.
pub const FIRST_PLACE: u64 = FIXED + NUMBER * TABLE_PLACES;
/// The most places whose memory is kept while nothing is in them.
const KEPT: usize = 64;
/// A payload of this size is mapped instead of copied.
const MAPPED_BYTES: usize = 256 << 10;

/// A memory file.
pub struct MemoryFile {
    file: File,
    /// The place of each segment.
    held: BTreeMap<u64, u64>,
    /// Places of discarded segments.
    free: Vec<u64>,
    /// Those of them whose memory was given back.
    empty: Vec<u64>,
}

impl MemoryFile {
    /// The log in this file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(file: File) -> io::Result<Self> {
        let mut opened = MemoryFile { file, held: BTreeMap::new(), free: Vec::new(), empty: Vec::new() };
        opened.refresh()?;
        Ok(opened)
    }

    /// The offset in the file of this offset of the log, and how many bytes follow there; `None` if it was never written.
    fn find(&self, offset: u64) -> (Option<u64>, u64) {
        if offset < FIXED {
            return (Some(offset), FIXED - offset);
        }
        let place = self.held.get(&(offset / SEGMENT));
        (place.map(|place| FIRST_PLACE + place * SEGMENT + offset % SEGMENT), SEGMENT - offset % SEGMENT)
    }

    /// A place for a segment that has none.
    fn assign(&mut self, segment: u64) -> io::Result<()> {
        let fresh = (self.held.len() + self.free.len() + self.empty.len()) as u64;
        let place = self.free.pop().or_else(|| self.empty.pop()).unwrap_or(fresh);
        if place >= PLACES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(&(segment + 1).to_le_bytes(), FIXED + NUMBER * place)?;
        self.held.insert(segment, place);
        Ok(())
    }

    fn read_some(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    fn read_place(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = self.read_some(offset, buffer)?;
            (offset, buffer) = (offset + count as u64, &mut buffer[count..]);
        }
        Ok(())
    }

    /// Where these bytes are in the file, in order; `None` if some were never written.
    fn pieces(&self, mut offset: u64, mut len: usize) -> Option<Vec<(u64, usize)>> {
        let mut pieces: Vec<(u64, usize)> = Vec::new();
        while len > 0 {
            let (at, room) = self.find(offset);
            let (at, count) = (at?, len.min(room as usize));
            match pieces.last_mut().filter(|(start, bytes)| start + *bytes as u64 == at) {
                Some((_, bytes)) => *bytes += count,
                None => pieces.push((at, count)),
            }
            (offset, len) = (offset + count as u64, len - count);
        }
        Some(pieces)
    }
}

impl LogStorage for MemoryFile {
    fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let (at, room) = self.find(offset);
            let count = buffer.len().min(room as usize);
            let (these, rest) = buffer.split_at_mut(count);
            match at {
                Some(at) => self.read_place(at, these)?,
                None => these.fill(0),
            }
            (offset, buffer) = (offset + count as u64, rest);
        }
        Ok(())
    }

    fn payload(&self, offset: u64, len: usize) -> io::Result<Payload> {
        let start = (offset % PAGE as u64) as usize;
        let pieces = match len < MAPPED_BYTES {
            true => None,
            false => self.pieces(offset - start as u64, start + len),
        };
        // Entries are never written again. One that another process removes meanwhile becomes something else, which its
        // checksum and the fingerprint of the weights reveal.
        if let Some(pieces) = pieces {
            return Ok(Payload::Mapped(Mapping::private_pieces(self.file.as_fd(), &pieces)?, start));
        }
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes)?;
        Ok(Payload::Read(bytes))
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (at, room) = self.find(offset);
            let Some(at) = at else {
                self.assign(offset / SEGMENT)?;
                continue;
            };
            let (these, rest) = bytes.split_at(bytes.len().min(room as usize));
            self.file.write_all_at(these, at)?;
            (offset, bytes) = (offset + these.len() as u64, rest);
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) {
        let ended: Vec<u64> =
            self.held.range(offset / SEGMENT..(offset + len) / SEGMENT).map(|(segment, _)| *segment).collect();
        self.free.extend(ended.iter().filter_map(|segment| self.held.remove(segment)));
    }

    fn trim(&mut self) {
        if let Some(excess) = self.free.len().checked_sub(KEPT) {
            let given_back: Vec<u64> = self.free.drain(..excess).collect();
            self.give_back(&given_back);
        }
    }

    fn refresh(&mut self) -> io::Result<()> {
        let bytes = u64::try_from(file_len(self.file.as_fd())?).unwrap_or(0).saturating_sub(FIRST_PLACE);
        let mut table = vec![0; (bytes.div_ceil(SEGMENT).min(PLACES) * NUMBER) as usize];
        self.read_place(FIXED, &mut table)?;
        (self.held, self.free, self.empty) = Default::default();
        for (place, number) in (0u64..).zip(table.as_chunks::<{ NUMBER as usize }>().0) {
            match u64::from_le_bytes(*number).checked_sub(1) {
                Some(segment) => _ = self.held.insert(segment, place),
                None => self.free.push(place),
            }
        }
        Ok(())
    }

    fn drop_spare(&mut self) -> u64 {
        let given_back = std::mem::take(&mut self.free);
        self.give_back(&given_back);
        given_back.len() as u64 * SEGMENT
    }
}

impl MemoryFile {
    fn give_back(&mut self, places: &[u64]) {
        places.iter().for_each(|place| punch_hole(&self.file, FIRST_PLACE + place * SEGMENT, SEGMENT));
        self.empty.extend(places);
    }
}

#[cfg(test)]
mod tests;
