//! The payload of an image: every page that differs from the base, and the ids known then.

use super::ids::Ids;
use crate::tensor::memory::{Memory, PAGE};

/// What an image holds in front of its pages: their number, the length of the ids, the page numbers, the ids.
pub fn front(memory: &Memory, ids: &Ids) -> (Vec<u8>, Vec<u32>) {
    let pages: Vec<u32> = memory.dirty_pages().collect();
    let ids = ids.encode();
    let mut bytes = Vec::with_capacity(16 + 4 * pages.len() + ids.len());
    bytes.extend((pages.len() as u64).to_le_bytes());
    bytes.extend((ids.len() as u64).to_le_bytes());
    pages.iter().for_each(|page| bytes.extend(page.to_le_bytes()));
    bytes.extend(ids);
    (bytes, pages)
}

/// Bytes that an image would take, about.
pub fn size(memory: &Memory, ids: &Ids) -> u64 {
    let page = PAGE + size_of::<u32>();
    (memory.dirty_count() as usize * page + ids.encoded_bytes()) as u64
}

/// An image taken apart.
pub struct Image<'a> {
    numbers: &'a [u8],
    ids: &'a [u8],
    pages: &'a [u8],
}

impl<'a> Image<'a> {
    /// Takes a payload apart; `None` if it makes no sense.
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

    /// The ids known when it was taken.
    pub fn ids(&self) -> Option<Ids> {
        Ids::decode(self.ids)
    }

    /// Writes its pages; false if they do not fit the memory.
    pub fn load(&self, memory: &mut Memory, progress: &dyn Fn()) -> bool {
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
