//! The payload of an image: every page that differs from the base, and the ids known at that time.

use super::ids::Ids;
use crate::journal::device::planted::{self, Bug};
use crate::tensor::memory::{PagedMemory, PAGE};

/// Bytes that a page adds to an image.
pub const PAGE_BYTES: u64 = (PAGE + size_of::<u32>()) as u64;

/// The start of an image, and the pages that follow it.
pub struct ImageFront {
    /// The number of pages, the length of the ids, the page numbers, the ids.
    pub bytes: Vec<u8>,
    /// The numbers of the pages whose bytes follow.
    pub pages: Vec<u32>,
}

/// The start of an image of this memory.
pub fn front(memory: &PagedMemory, ids: &Ids) -> ImageFront {
    let pages: Vec<u32> = memory.dirty_pages().collect();
    let ids = if planted::is(Bug::IdsNotPersisted) { Vec::new() } else { ids.encode() };
    let mut bytes = Vec::with_capacity(16 + 4 * pages.len() + ids.len());
    bytes.extend((pages.len() as u64).to_le_bytes());
    bytes.extend((ids.len() as u64).to_le_bytes());
    pages.iter().for_each(|page| bytes.extend(page.to_le_bytes()));
    bytes.extend(ids);
    ImageFront { bytes, pages }
}

/// Bytes that an image would have, about.
pub fn size(memory: &PagedMemory, ids: &Ids) -> u64 {
    u64::from(memory.dirty_count()) * PAGE_BYTES + ids.encoded_bytes() as u64
}

/// A parsed image.
pub struct Image<'a> {
    numbers: &'a [u8],
    ids: &'a [u8],
    pages: &'a [u8],
}

impl<'a> Image<'a> {
    /// Parses a payload; `None` if it is not valid.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let number = |at: usize| {
            let chunk = payload.get(at..)?.first_chunk()?;
            usize::try_from(u64::from_le_bytes(*chunk)).ok()
        };
        let (count, ids_len) = (number(0)?, number(8)?);
        let rest = payload.get(16..)?;
        let (numbers, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (ids, pages) = rest.split_at_checked(ids_len)?;
        Some(Image { numbers, ids, pages })
    }

    /// The ids that were known when it was made.
    pub fn ids(&self) -> Option<Ids> {
        Ids::decode(self.ids)
    }

    /// Writes its pages to memory; returns false if they do not fit.
    pub fn load(&self, memory: &mut PagedMemory, progress: &dyn Fn()) -> bool {
        let mut rest = self.pages;
        for number in self.numbers.chunks_exact(4) {
            let number = number.try_into().map_or(u32::MAX, u32::from_le_bytes);
            if number >= memory.pages() {
                return false;
            }
            let Some((page, tail)) = rest.split_at_checked(memory.page_bytes(number)) else { return false };
            memory.restore_page(number, page);
            rest = tail;
            if number % 64 == 0 {
                progress();
            }
        }
        rest.is_empty()
    }
}
