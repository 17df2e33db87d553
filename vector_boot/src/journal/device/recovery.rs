//! Reads the log from the device: verifies every frame, finds its end, and tells a torn end from damage.

use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::frame::{entry_bytes, frame_bytes, seed, FrameHead, HEAD};
use super::planted::{self, Bug};
use super::ring::{Ring, PIECE};
use super::superblock::{Place, Superblock};
use crate::journal::format::{BLOCK, FRAME_MAGIC};
use crate::journal::{EntryHead, JournalError, JournalReason, HEAD_BYTES};

/// The log on its device, as far as a superblock tells.
pub struct Reader<'a> {
    /// The device.
    pub ring: &'a Ring,
    /// The current superblock.
    pub superblock: &'a Superblock,
    /// Whether frames may have been written beyond its reach.
    pub beyond_reach: bool,
}

/// What is at the end of the log.
pub enum Tail {
    /// Nothing of a frame.
    Clean,
    /// A frame that was not written wholly.
    Torn,
}

impl Reader<'_> {
    fn limit(&self) -> u64 {
        self.superblock.start.offset + self.ring.bytes()
    }

    /// The head of the frame that continues the log here; `None` if there is none.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn frame(&self, place: &Place) -> io::Result<Option<FrameHead>> {
        if place.offset + BLOCK > self.limit() {
            return Ok(None);
        }
        let mut bytes = [0; HEAD];
        self.ring.read(place.offset, &mut bytes, self.limit())?;
        let found = FrameHead::decode(&bytes, &self.superblock.salt, place.offset);
        let Some(head) = found.filter(|head| head.place == *place && self.fits(head)) else { return Ok(None) };
        let unchecked = planted::is(Bug::ChecksumSkipped) || planted::is(Bug::TailTooFar);
        let whole = unchecked || self.sum(&head)? == head.content_sum;
        Ok(Some(head).filter(|_| whole))
    }

    fn fits(&self, head: &FrameHead) -> bool {
        frame_bytes(head.content_bytes) <= self.limit() - head.place.offset
    }

    fn sum(&self, head: &FrameHead) -> io::Result<u128> {
        let mut hash = Xxh3::with_seed(seed(&self.superblock.salt));
        let mut piece = vec![0; head.content_bytes.min(PIECE as u64) as usize];
        let (mut at, end) = (head.place.offset + HEAD as u64, head.place.offset + HEAD as u64 + head.content_bytes);
        while at < end {
            let piece = &mut piece[..(end - at).min(PIECE as u64) as usize];
            self.ring.read(at, piece, self.limit())?;
            hash.update(piece);
            at += piece.len() as u64;
        }
        Ok(hash.digest128())
    }

    /// The entries of a frame: their offsets and heads.
    ///
    /// # Errors
    /// If the device cannot be read, or they are not valid: what was written is damaged then.
    pub fn entries(&self, frame: &FrameHead) -> Result<Vec<(u64, EntryHead)>, JournalError> {
        let mut entries = Vec::new();
        let mut at = frame.place.offset + HEAD as u64;
        let end = at + frame.content_bytes;
        for number in 0..u64::from(frame.entries) {
            let sequence = frame.place.sequence + number;
            let mut bytes = [0; HEAD_BYTES];
            if end - at < HEAD_BYTES as u64 {
                return Err(damaged(frame.place.frame, at));
            }
            self.ring.read(at, &mut bytes, self.limit())?;
            let head = EntryHead::decode(&bytes).filter(|head| {
                head.sequence == sequence
                    && entry_bytes(head.payload_bytes) <= end - at
                    && (number == 0 || !head.holds_image())
            });
            if head.is_none() && planted::is(Bug::TailTooFar) {
                return Ok(entries);
            }
            let head = head.ok_or_else(|| damaged(frame.place.frame, at))?;
            entries.push((at, head));
            at += entry_bytes(head.payload_bytes);
        }
        match at == end && frame.entries > 0 {
            true => Ok(entries),
            false => Err(damaged(frame.place.frame, at)),
        }
    }

    /// What is where no frame continues the log.
    ///
    /// # Errors
    /// If the device cannot be read, or a frame behind it shows that this one was there.
    pub fn tail(&self, place: &Place) -> Result<Tail, JournalError> {
        if place.frame == self.superblock.start.frame && place.frame != 0 {
            return Err(damaged(place.frame, place.offset));
        }
        if place.offset + BLOCK > self.limit() {
            return Ok(Tail::Clean);
        }
        let end = match self.beyond_reach {
            true => self.limit(),
            false => self.superblock.reach.min(self.limit()),
        };
        let mut at = place.offset + BLOCK;
        let mut piece = vec![0; end.saturating_sub(at).min(PIECE as u64) as usize];
        while at < end {
            let piece = &mut piece[..(end - at).min(PIECE as u64) as usize];
            self.ring.read_blocks(at, piece)?;
            for (number, block) in piece.chunks_exact(BLOCK as usize).enumerate() {
                if FrameHead::decode(block, &self.superblock.salt, at + number as u64 * BLOCK).is_some() {
                    return Err(damaged(place.frame, place.offset));
                }
            }
            at += piece.len() as u64;
        }
        let mut block = [0; BLOCK as usize];
        self.ring.read_blocks(place.offset, &mut block)?;
        Ok(if self.is_torn(&block, place.offset) { Tail::Torn } else { Tail::Clean })
    }

    /// Whether a block is the beginning of a frame that was not written wholly. One of an earlier turn of the ring is not.
    fn is_torn(&self, block: &[u8; BLOCK as usize], offset: u64) -> bool {
        let turns = (1..).map(|turn| offset.checked_sub(turn * self.ring.bytes())).take_while(Option::is_some).take(2);
        let earlier = |at: u64| FrameHead::decode(block, &self.superblock.salt, at).is_some();
        block.starts_with(&FRAME_MAGIC) && !turns.flatten().any(earlier)
    }
}

fn damaged(frame: u64, offset: u64) -> JournalError {
    let text = format!(
        "the journal is damaged in the middle, in frame {frame} at offset {offset} of its log: restore a copy of the state \
         device, or use another one"
    );
    JournalError::new(JournalReason::Damaged, text)
}
