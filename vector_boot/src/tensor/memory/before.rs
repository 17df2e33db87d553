//! Copies of pages as they were before a change.

use super::PAGE;
use crate::sys::memory::Mapping;

/// The largest block in pages. Blocks grow up to this, so a small change takes little memory.
const BLOCK_PAGES: usize = 64;

/// The most blocks that wait to be used.
const SPARE_BLOCKS: usize = 64;

/// Copies of whole pages as they were.
#[derive(Default)]
pub struct BeforeImages {
    pages: Vec<u32>,
    /// One page after the other, each of [`PAGE`] bytes. Every block but the last is full.
    blocks: Vec<Block>,
    /// Pages that fit the blocks.
    room: usize,
}

/// Memory for pages.
enum Block {
    Heap(Vec<u8>),
    Mapped(Mapping),
}

/// Blocks of [`BLOCK_PAGES`] that wait to be used. They are parts of a huge page: to get its memory takes a quarter of the
/// time that single pages take.
#[derive(Default)]
pub struct SpareBlocks(Vec<Mapping>);

impl SpareBlocks {
    /// Adds the blocks of before-images that are no longer needed: memory that was used before is faster than new memory.
    pub fn add(&mut self, old: BeforeImages) {
        let mapped = old.blocks.into_iter().filter_map(|block| match block {
            Block::Mapped(mapping) => Some(mapping),
            Block::Heap(_) => None,
        });
        self.0.extend(mapped.take(SPARE_BLOCKS.saturating_sub(self.0.len())));
    }

    /// Frees all of them. Returns their number of bytes.
    pub fn clear(&mut self) -> usize {
        self.0.drain(..).map(|mapping| mapping.bytes().len()).sum()
    }

    fn take(&mut self) -> Option<Mapping> {
        if self.0.is_empty() {
            let mut rest = Mapping::huge_page().ok()?;
            while rest.bytes().len() > BLOCK_PAGES * PAGE {
                self.0.push(rest.split_off(rest.bytes().len() - BLOCK_PAGES * PAGE));
            }
            self.0.push(rest);
        }
        self.0.pop()
    }
}

impl Block {
    fn new(pages: usize, spare: &mut SpareBlocks) -> Self {
        let mapped = if pages == BLOCK_PAGES { spare.take() } else { None };
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
    /// Makes sure that one more page fits.
    pub(super) fn make_room(&mut self, spare: &mut SpareBlocks) {
        if self.pages.len() == self.room {
            let pages = self.room.clamp(1, BLOCK_PAGES);
            self.blocks.push(Block::new(pages, spare));
            self.room += pages;
        }
    }

    /// Adds a page, which fits and may be shorter than [`PAGE`].
    pub(super) fn push(&mut self, page: u32, bytes: &[u8]) {
        if let Some(block) = self.blocks.last_mut().map(Block::bytes_mut) {
            let at = block.len() - (self.room - self.pages.len()) * PAGE;
            let (copy, padding) = block[at..at + PAGE].split_at_mut(bytes.len());
            copy.copy_from_slice(bytes);
            padding.fill(0);
        }
        self.pages.push(page);
    }

    /// The bytes of the page that was added last, [`PAGE`] of them.
    pub(super) fn newest(&self) -> Option<&[u8]> {
        let block = self.blocks.last()?.bytes();
        let end = block.len() - (self.room - self.pages.len()) * PAGE;
        block.get(end.checked_sub(PAGE)?..end)
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
