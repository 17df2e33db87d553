//! The frame that is being filled. What no longer fits memory is written to its place already; its first block, which
//! makes it a frame, is written last.

use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::frame::{frame_bytes, HEAD};
use super::ring::{Ring, PIECE};
use crate::journal::format::BLOCK;

/// An open frame.
pub struct Batch {
    /// Number of entries.
    pub entries: u32,
    /// Bytes of the entries together.
    pub content_bytes: u64,
    /// Whether its first entry holds an image.
    pub image: bool,
    hash: Xxh3,
    /// The first block, with room for the head.
    first: Vec<u8>,
    /// What follows it on the device, in bytes.
    written: u64,
    /// What follows that in memory.
    rest: Vec<u8>,
}

impl Batch {
    /// An empty frame, with this seed of its sum.
    pub fn new(seed: u64) -> Self {
        let first = vec![0; HEAD];
        let hash = Xxh3::with_seed(seed);
        Batch { entries: 0, content_bytes: 0, image: false, hash, first, written: 0, rest: Vec::new() }
    }

    /// Bytes of the frame as it is; 0 if it is empty.
    pub fn frame_bytes(&self) -> u64 {
        match self.entries {
            0 => 0,
            _ => frame_bytes(self.content_bytes),
        }
    }

    /// Whether pushing more bytes would write some of them to the device.
    pub fn would_write(&self, more: u64) -> bool {
        self.rest.len() as u64 + more > PIECE as u64
    }

    /// Adds bytes to the frame at this logical offset.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn push(&mut self, mut bytes: &[u8], at: u64, ring: &mut Ring) -> io::Result<()> {
        self.hash.update(bytes);
        self.content_bytes += bytes.len() as u64;
        let head = bytes.len().min(BLOCK as usize - self.first.len());
        self.first.extend_from_slice(&bytes[..head]);
        bytes = &bytes[head..];
        while !bytes.is_empty() {
            let count = bytes.len().min(PIECE - self.rest.len());
            self.rest.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.rest.len() == PIECE && !bytes.is_empty() {
                ring.write_blocks(at + BLOCK + self.written, &self.rest)?;
                self.written += PIECE as u64;
                self.rest.clear();
            }
        }
        Ok(())
    }

    /// XXH3-128 of the entries.
    pub fn sum(&self) -> u128 {
        self.hash.digest128()
    }

    /// Writes the frame at this logical offset with this head; what is in memory in one piece if it is together.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, head: &[u8; HEAD], at: u64, ring: &mut Ring) -> io::Result<()> {
        self.first[..HEAD].copy_from_slice(head);
        self.first.resize(BLOCK as usize, 0);
        self.rest.resize(self.rest.len().next_multiple_of(BLOCK as usize), 0);
        if self.written == 0 {
            self.first.append(&mut self.rest);
            return ring.write_blocks(at, &self.first);
        }
        ring.write_blocks(at + BLOCK + self.written, &self.rest)?;
        ring.write_blocks(at, &self.first)
    }

    /// Copies bytes of the frame from this offset inside it on, as far as they lie together in one place; returns their
    /// number, and 0 if they are on the device. `inside` is below the length of the frame.
    pub fn copy(&self, inside: u64, buffer: &mut [u8]) -> usize {
        let behind = BLOCK + self.written;
        let known = match inside {
            _ if inside < BLOCK => self.first.get(inside as usize..),
            _ if inside >= behind => self.rest.get((inside - behind) as usize..),
            _ => None,
        };
        let known = known.unwrap_or_default();
        let count = known.len().min(buffer.len());
        buffer[..count].copy_from_slice(&known[..count]);
        count
    }

    /// Where the bytes that are on the device end, inside the frame.
    pub fn on_device_until(&self) -> u64 {
        BLOCK + self.written
    }
}
