//! Copies of pages as they were before a change.

use super::PAGE;
use crate::sys::memory::Mapping;

/// The largest block in pages. Blocks grow up to this, so a small change takes little memory.
const BLOCK_PAGES: usize = 64;
/// A block of at least this many pages gets all its memory at once: that takes a fifth of the time of a fault for each.
const MAPPED_PAGES: usize = 16;

/// Copies of whole pages as they were.
#[derive(Default)]
pub struct BeforeImages {
    pages: Vec<u32>,
    /// One page after the other, each of [`PAGE`] bytes. Every block but the last is full.
    blocks: Vec<Block>,
    /// Pages that fit the blocks.
    room: usize,
}

/// Memory for pages, zero where nothing was written.
enum Block {
    Heap(Vec<u8>),
    Mapped(Mapping),
}

impl Block {
    fn new(pages: usize) -> Self {
        let mapped = (pages >= MAPPED_PAGES).then(|| Mapping::populated(pages * PAGE).ok()).flatten();
        mapped.map_or_else(|| Block::Heap(vec![0; pages * PAGE]), Block::Mapped)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Block::Heap(bytes) => bytes,
            Block::Mapped(mapping) => mapping.bytes(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Block::Heap(bytes) => bytes,
            Block::Mapped(mapping) => mapping.bytes_mut(),
        }
    }
}

impl BeforeImages {
    /// Adds a page, which may be shorter than [`PAGE`].
    pub(super) fn push(&mut self, page: u32, bytes: &[u8]) {
        if self.pages.len() == self.room {
            let pages = self.room.clamp(1, BLOCK_PAGES);
            self.blocks.push(Block::new(pages));
            self.room += pages;
        }
        if let Some(block) = self.blocks.last_mut().map(Block::bytes_mut) {
            let at = block.len() - (self.room - self.pages.len()) * PAGE;
            block[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.pages.push(page);
    }

    /// Bytes of memory that they use.
    pub fn size(&self) -> usize {
        self.room * PAGE + self.pages.capacity() * size_of::<u32>()
    }

    /// The numbers of the pages.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.iter().copied()
    }

    /// The pages and their bytes, [`PAGE`] of them: the last page of a mapping is padded with zeros.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pages().zip(self.blocks.iter().flat_map(|block| block.bytes().chunks_exact(PAGE)))
    }
}
