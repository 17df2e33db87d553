//! Writes frames and superblocks, in an order in which the device may stop at any moment.

use std::io;

use super::batch::Batch;
use super::frame::{entry_bytes, frame_bytes, seed, FrameHead, HEAD};
use super::planted::{self, Bug};
use super::ring::PIECE;
use super::superblock::{Place, Superblock};
use super::{damaged, DeviceLog};
use crate::journal::entry::sum_of;
use crate::journal::format::{BLOCK, ENTRY_ALIGNMENT};
use crate::journal::{EntryHead, Journal, JournalError, JournalReason, HEAD_BYTES};

impl DeviceLog {
    /// Appends an entry to the open frame.
    pub(super) fn add(&mut self, mut head: EntryHead, payload: &[&[u8]]) -> Result<u64, JournalError> {
        head.sequence = self.next_sequence();
        head.payload_bytes = payload.iter().map(|piece| piece.len() as u64).sum();
        head.payload_sum = sum_of(payload);
        if head.holds_image() && self.batch.entries > 0 {
            return Err(damaged("an image was not the first entry of its frame, so it was not written".into()));
        }
        let bytes = entry_bytes(head.payload_bytes);
        let end = self.tail.offset + frame_bytes(self.batch.content_bytes.saturating_add(bytes));
        if end > self.limit() {
            let text = "the state device is full: promote or roll back what is on trial, or use a larger one";
            return Err(JournalError::new(JournalReason::Full, text));
        }
        if self.batch.would_write(bytes) {
            self.prepare(end)?;
        }
        let (at, offset) = (self.tail.offset, self.tail.offset + HEAD as u64 + self.batch.content_bytes);
        self.batch.entries += 1;
        self.batch.image |= head.holds_image();
        self.batch.push(&head.encode(), at, &mut self.ring)?;
        for piece in payload {
            self.batch.push(piece, at, &mut self.ring)?;
        }
        let padding = [0; ENTRY_ALIGNMENT as usize];
        let missing = bytes - HEAD_BYTES as u64 - head.payload_bytes;
        self.batch.push(&padding[..missing as usize], at, &mut self.ring)?;
        Ok(offset)
    }

    /// Makes what was read durable. In a boot before, a flush may have failed: the last frame may then be in a cache that takes
    /// it for written, so it is written again. So is a superblock, before the next frame.
    pub(super) fn settle(&mut self, first_in_boot: bool) -> Result<(), JournalError> {
        self.mended &= !first_in_boot;
        if let Some(mut at) = self.last.filter(|_| first_in_boot) {
            let mut piece = vec![0; (self.tail.offset - at).min(PIECE as u64) as usize];
            while at < self.tail.offset {
                let piece = &mut piece[..(self.tail.offset - at).min(PIECE as u64) as usize];
                self.ring.read_blocks(at, piece)?;
                self.ring.write_blocks(at, piece)?;
                at += piece.len() as u64;
            }
        }
        Ok(self.ring.device_mut().flush()?)
    }

    /// Makes it right to write up to this logical offset.
    fn prepare(&mut self, end: u64) -> Result<(), JournalError> {
        if planted::is(Bug::ReplyBeforeFlush) {
            self.ring.device_mut().flush()?; // that of the frame before
        }
        if self.torn.take().is_some() {
            // Else sectors of the next frame could complete the torn one, if they are equal.
            self.ring.write_blocks(self.tail.offset, &[0; BLOCK as usize])?;
            self.ring.device_mut().flush()?;
        }
        let reach = match end > self.superblock.reach {
            true => end.max(self.superblock.reach + self.reach_step).min(self.limit()),
            false => self.superblock.reach,
        };
        if reach != self.superblock.reach || !self.mended {
            self.put_superblock(Superblock { reach, ..self.superblock })?;
            self.mended = true;
        }
        self.write_ahead(end)
    }

    /// Fills the space behind the frame that ends at this logical offset with zeros, in the first turn of the ring. A file system
    /// then has the blocks of the frames that follow, and their flushes need not wait for it to note where they are.
    fn write_ahead(&mut self, end: u64) -> Result<(), JournalError> {
        if end <= self.written_to || end >= self.ring.bytes() {
            return Ok(());
        }
        let to = end.saturating_add(self.zeros_ahead).min(self.ring.bytes()).min(self.limit());
        self.written_to = to;
        if to <= end {
            return Ok(());
        }
        match self.ring.write_blocks(end, &vec![0; (to - end) as usize]) {
            // There may be space for the frame itself.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            written => Ok(written?),
        }
    }

    /// Writes the open frame, and flushes it.
    pub(super) fn write_frame(&mut self) -> Result<(), JournalError> {
        self.prepare(self.end())?;
        let image = self.batch.image;
        if planted::is(Bug::SuperblockOrder) && image {
            self.put_superblock(Superblock { start: self.tail, ..self.superblock })?;
        }
        let mut head = FrameHead {
            place: self.tail,
            entries: self.batch.entries,
            content_bytes: self.batch.content_bytes,
            content_sum: self.batch.sum(),
            boot: self.boot,
            nonce: self.nonce,
            digest: [0; 32],
        };
        let bytes = head.encode(&self.superblock.salt);
        self.batch.write(&bytes, self.tail.offset, &mut self.ring)?;
        let skipped = planted::is(Bug::NoFlush)
            || planted::is(Bug::ReplyBeforeFlush)
            || (planted::is(Bug::CheckpointWithoutFlush) && image);
        if !skipped {
            self.flush()?;
        }
        self.require_kept()?;
        (self.last, self.tail) = (Some(self.tail.offset), head.next());
        self.batch = Batch::new(seed(&self.superblock.salt));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        let flushed = self.ring.device_mut().flush();
        if flushed.is_err() && planted::is(Bug::RetriedFlush) {
            return Ok(self.ring.device_mut().flush()?);
        }
        Ok(flushed?)
    }

    /// Removes all frames before that of the entry at this offset.
    pub(super) fn move_start(&mut self, offset: u64, sequence: u64) -> Result<(), JournalError> {
        let at = offset.checked_sub(HEAD as u64).filter(|at| at.is_multiple_of(BLOCK) && self.holds(*at, BLOCK));
        let Some(at) = at.filter(|at| *at < self.tail.offset) else {
            return Err(damaged(format!("no frame begins at the entry at offset {offset}, so nothing was removed")));
        };
        let mut block = [0; BLOCK as usize];
        self.ring.read(at, &mut block, self.limit())?;
        let head = FrameHead::decode(&block, &self.superblock.salt, at).filter(|head| head.place.sequence == sequence);
        let head = head.ok_or_else(|| damaged(format!("its frame at offset {at} is not valid any more")))?;
        let start: Place = head.place;
        // Both superblocks, so that either alone leads to every frame; only then the space before is free.
        for _ in 0..2 {
            self.put_superblock(Superblock { start, ..self.superblock })?;
        }
        self.mended = true;
        Ok(())
    }

    /// Writes the next superblock, and flushes it.
    fn put_superblock(&mut self, superblock: Superblock) -> Result<(), JournalError> {
        let next = Superblock { turn: self.superblock.turn + 1, ..superblock };
        next.write(self.ring.device_mut())?;
        self.superblock = next;
        Ok(())
    }
}
