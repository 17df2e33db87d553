//! The device page `hw.mmio`: 1024 words that supervisor and worker share.
//!
//! The word table is `spec/hw_mmio.toml`, from which the constants here are generated.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Word numbers and initial values.
#[allow(clippy::unreadable_literal)]
pub mod word {
    include!(concat!(env!("OUT_DIR"), "/hw_mmio.rs"));
}

/// Words of the tensor `hw.mmio`.
pub const WORDS: usize = 1024;

/// Values of the word `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Booting = 0,
    Beating = 1,
    Emergency = 2,
    Stopping = 3,
}

/// A view of the page, and of the shared words after it.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    page: &'a [AtomicU32],
    shared: &'a [AtomicU32],
}

impl<'a> Page<'a> {
    /// The page in the first words of shared memory. Words past the end read as 0 and are never written.
    pub fn new(words: &'a [AtomicU32]) -> Self {
        Page { page: words.get(..WORDS).unwrap_or(words), shared: words }
    }

    /// Writes the initial values.
    pub fn initialise(&self) {
        for &(first, count, value) in word::INITIAL {
            (first..first + count).for_each(|word| self.set(word, value));
        }
    }

    /// One word.
    pub fn get(&self, word: usize) -> u32 {
        self.page.get(word).map_or(0, |cell| cell.load(Relaxed))
    }

    /// A 64-bit number, low word first.
    pub fn get_wide(&self, word: usize) -> u64 {
        u64::from(self.get(word)) | u64::from(self.get(word + 1)) << 32
    }

    /// Changes one word.
    pub fn set(&self, word: usize, value: u32) {
        if let Some(cell) = self.page.get(word) {
            cell.store(value, Relaxed);
        }
    }

    /// Changes a 64-bit number, low word first.
    pub fn set_wide(&self, word: usize, value: u64) {
        self.set(word, value as u32);
        self.set(word + 1, (value >> 32) as u32);
    }

    /// Bytes `range` of the page and the shared words after it, the words as little-endian integers.
    pub fn shared_bytes(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        let word = |at: usize| self.shared.get(at).map_or(0, |cell| cell.load(Relaxed));
        range.map(|at| word(at / 4).to_le_bytes()[at % 4]).collect()
    }
}
