//! The bytes of all tensors, and the transactions that change them: a private mapping of the model's file, followed by
//! the machine's own tensors. The unit is the page; a page that was never changed uses no memory.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::sys::memory::{claim, Mapping};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// One address space over both mappings, with a fingerprint of the difference from the model's file.
pub struct PagedMemory {
    weights: Mapping,
    extra: Mapping,
    /// Address of the first byte of `extra`, a multiple of the page.
    extra_at: usize,
    fingerprint: u64,
    /// Pages that were ever changed.
    dirty: PageSet,
    /// Pages the open transaction has saved.
    saved: PageSet,
}

/// Copies of whole pages as they were.
#[derive(Default)]
pub struct BeforeImages {
    pages: Vec<u32>,
    /// One page after the other, each of [`PAGE`] bytes.
    bytes: Vec<u8>,
}

impl BeforeImages {
    /// Bytes of memory that they use.
    pub fn size(&self) -> usize {
        self.bytes.capacity() + self.pages.capacity() * size_of::<u32>()
    }

    /// The pages and their bytes, [`PAGE`] of them: the last page of a mapping is padded with zeros.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pages.iter().copied().zip(self.bytes.chunks_exact(PAGE))
    }
}

impl PagedMemory {
    /// Places `extra` after `weights`, from the next page on.
    pub fn new(weights: Mapping, extra: Mapping) -> Self {
        let extra_at = weights.bytes().len().next_multiple_of(PAGE);
        let pages = (extra_at + extra.bytes().len()).div_ceil(PAGE);
        let (dirty, saved) = (PageSet::new(pages), PageSet::new(pages));
        PagedMemory { weights, extra, extra_at, fingerprint: 0, dirty, saved }
    }

    /// Address of the first byte after the model.
    pub fn extra_at(&self) -> usize {
        self.extra_at
    }

    /// `len` bytes from `address`, which lie inside one of the mappings.
    pub fn bytes(&self, address: usize, len: usize) -> &[u8] {
        match address.checked_sub(self.extra_at) {
            Some(address) => &self.extra.bytes()[address..address + len],
            None => &self.weights.bytes()[address..address + len],
        }
    }

    fn bytes_mut(&mut self, address: usize, len: usize) -> &mut [u8] {
        match address.checked_sub(self.extra_at) {
            Some(address) => &mut self.extra.bytes_mut()[address..address + len],
            None => &mut self.weights.bytes_mut()[address..address + len],
        }
    }

    /// Address and length of a page, whose end may be that of a mapping.
    fn extent(&self, page: u32) -> (usize, usize) {
        let address = page as usize * PAGE;
        let end = match address < self.extra_at {
            true => self.weights.bytes().len(),
            false => self.extra_at + self.extra.bytes().len(),
        };
        (address, PAGE.min(end - address))
    }

    /// The bytes of a page.
    pub fn page(&self, page: u32) -> &[u8] {
        let (address, len) = self.extent(page);
        self.bytes(address, len)
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        u32::try_from((self.extra_at + self.extra.bytes().len()).div_ceil(PAGE)).unwrap_or(u32::MAX)
    }

    /// The pages that were ever changed, in order.
    pub fn dirty_pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.dirty.iter()
    }

    /// Length of the address space in bytes, a multiple of [`PAGE`].
    pub fn end(&self) -> usize {
        self.pages() as usize * PAGE
    }

    /// Moves the bytes to a memory file that nobody else writes, each at its address, so that other processes can map
    /// them. A page that the file already holds is not written again, so that a reader never sees it change.
    ///
    /// # Errors
    /// If the file cannot have this size, or cannot be mapped.
    pub fn move_to(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        claim(file, self.end())?;
        let weights = Mapping::shared(file, 0, self.weights.bytes().len())?;
        let extra = Mapping::shared(file, self.extra_at as u64, self.extra.bytes().len())?;
        let private = [std::mem::replace(&mut self.weights, weights), std::mem::replace(&mut self.extra, extra)];
        for (source, target) in private.iter().zip([&mut self.weights, &mut self.extra]) {
            for (new, old) in source.bytes().chunks(PAGE).zip(target.bytes_mut().chunks_mut(PAGE)) {
                if new != old {
                    old.copy_from_slice(new);
                }
            }
        }
        Ok(())
    }

    /// Number of bytes that differ from `base`, which has the same layout.
    pub fn differing_bytes(&self, base: &PagedMemory) -> u64 {
        self.dirty_pages().map(|page| count_differing(self.page(page), base.page(page))).sum()
    }

    /// A hash of the contents, relative to the base: equal contents have equal fingerprints, and others have different
    /// ones except by chance.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Replaces a page without a transaction; returns false if `new` does not have the length of the page.
    pub fn restore_page(&mut self, page: u32, new: &[u8]) -> bool {
        let (address, len) = self.extent(page);
        if new.len() != len {
            return false;
        }
        let delta = fingerprint(page, new).wrapping_sub(fingerprint(page, self.bytes(address, len)));
        self.fingerprint = self.fingerprint.wrapping_add(delta);
        self.bytes_mut(address, len).copy_from_slice(new);
        self.dirty.insert(page);
        true
    }

    /// Bytes of a page, fewer than [`PAGE`] at the end of a mapping.
    pub fn page_bytes(&self, page: u32) -> usize {
        self.extent(page).1
    }

    /// Number of pages that were ever changed.
    pub fn dirty_count(&self) -> u32 {
        self.dirty.0.iter().map(|cell| cell.count_ones()).sum()
    }

    /// Bytes of the pages that were never changed.
    pub fn clean_bytes(&self) -> u64 {
        u64::from(self.pages().saturating_sub(self.dirty_count())) * PAGE as u64
    }

    /// Starts a transaction.
    pub fn begin(&mut self) -> Transaction<'_> {
        Transaction { memory: self, before: BeforeImages::default(), open: true }
    }
}

/// A change in progress. If it is dropped without [`Transaction::commit`], everything is as before.
pub struct Transaction<'a> {
    memory: &'a mut PagedMemory,
    before: BeforeImages,
    open: bool,
}

impl Transaction<'_> {
    /// `len` bytes from `address` as they are now.
    pub fn bytes(&self, address: usize, len: usize) -> &[u8] {
        self.memory.bytes(address, len)
    }

    /// Replaces the bytes from `address` on. Pages whose bytes stay the same are not touched.
    pub fn write(&mut self, address: usize, new: &[u8]) {
        let mut done = 0;
        while done < new.len() {
            let at = address + done;
            let count = (PAGE - at % PAGE).min(new.len() - done);
            let piece = &new[done..done + count];
            if self.memory.bytes(at, count) != piece {
                self.save((at / PAGE) as u32);
                self.memory.bytes_mut(at, count).copy_from_slice(piece);
            }
            done += count;
        }
    }

    /// Replaces a page; bytes beyond the end of its mapping are ignored.
    pub fn write_page(&mut self, page: u32, new: &[u8]) {
        let (address, len) = self.memory.extent(page);
        self.write(address, &new[..len.min(new.len())]);
    }

    fn save(&mut self, page: u32) {
        if self.memory.saved.insert(page) {
            let bytes = self.memory.page(page);
            self.before.pages.push(page);
            self.before.bytes.extend_from_slice(bytes);
            self.before.bytes.resize(self.before.pages.len() * PAGE, 0);
        }
    }

    /// For each range, the number of bytes that the transaction has changed so far. The ranges may have any order.
    pub fn changed_bytes(&self, ranges: &[Range<usize>]) -> Vec<u64> {
        let mut order: Vec<u32> = (0..self.before.pages.len() as u32).collect();
        order.sort_unstable_by_key(|index| self.before.pages[*index as usize]);
        let page_of = |index: &u32| self.before.pages[*index as usize] as usize;
        let count = |range: &Range<usize>| {
            let first = order.partition_point(|index| page_of(index) < range.start / PAGE);
            let pages = order[first..].iter().take_while(|index| page_of(index) * PAGE < range.end);
            let differing = pages.map(|index| {
                let start = page_of(index) * PAGE;
                let (from, to) = (range.start.max(start), range.end.min(start + PAGE));
                let before = &self.before.bytes[*index as usize * PAGE..][from - start..to - start];
                count_differing(before, self.memory.bytes(from, to - from))
            });
            differing.sum()
        };
        ranges.iter().map(count).collect()
    }

    fn undo(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let before = std::mem::take(&mut self.before);
        for (page, bytes) in before.iter() {
            let (address, len) = self.memory.extent(page);
            self.memory.bytes_mut(address, len).copy_from_slice(&bytes[..len]);
            self.memory.saved.remove(page);
        }
    }

    /// Makes the change permanent, and returns the pages as they were before it.
    pub fn commit(mut self) -> BeforeImages {
        self.open = false;
        let before = std::mem::take(&mut self.before);
        for (page, bytes) in before.iter() {
            let after = self.memory.page(page);
            let delta = fingerprint(page, after).wrapping_sub(fingerprint(page, &bytes[..after.len()]));
            self.memory.fingerprint = self.memory.fingerprint.wrapping_add(delta);
            self.memory.saved.remove(page);
            self.memory.dirty.insert(page);
        }
        before
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

fn count_differing(a: &[u8], b: &[u8]) -> u64 {
    // Each run is short enough for the sums to fit bytes, so that the loop is vectorised.
    let runs = a.chunks(255 * 32).zip(b.chunks(255 * 32));
    runs.map(|(a, b)| {
        let mut lanes = [0u8; 32];
        let (whole_a, whole_b) = (a.chunks_exact(32), b.chunks_exact(32));
        let rest = whole_a.remainder().iter().zip(whole_b.remainder()).filter(|(a, b)| a != b).count() as u64;
        for (a, b) in whole_a.zip(whole_b) {
            for lane in 0..32 {
                lanes[lane] += u8::from(a[lane] != b[lane]);
            }
        }
        rest + lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>()
    })
    .sum()
}

/// A hash of a page and its number: four lanes of multiply and rotate, mixed at the end. It detects accidental damage,
/// not forgery.
fn fingerprint(page: u32, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [u64::from(page) + 1, 0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344, 0xA409_3822_299F_31D0];
    for group in bytes.chunks(32) {
        let mut words = [0u8; 32];
        words[..group.len()].copy_from_slice(group);
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            *lane = (*lane ^ word).wrapping_mul(PRIME).rotate_left(29);
        }
    }
    lanes.iter().fold(0, |hash: u64, lane| {
        let mixed = (hash ^ lane).wrapping_mul(PRIME);
        mixed ^ (mixed >> 32)
    })
}

/// A set of page numbers.
struct PageSet(Vec<u64>);

impl PageSet {
    fn new(pages: usize) -> Self {
        PageSet(vec![0; pages.div_ceil(64)])
    }

    /// Adds a page; returns whether it was not in the set before.
    fn insert(&mut self, page: u32) -> bool {
        let (cell, bit) = (&mut self.0[page as usize / 64], 1u64 << (page % 64));
        let fresh = *cell & bit == 0;
        *cell |= bit;
        fresh
    }

    fn remove(&mut self, page: u32) {
        self.0[page as usize / 64] &= !(1u64 << (page % 64));
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let cells = self.0.iter().enumerate().filter(|(_, cell)| **cell != 0);
        cells.flat_map(|(index, cell)| {
            (0..64).filter(move |bit| cell >> bit & 1 == 1).map(move |bit| (index * 64 + bit) as u32)
        })
    }
}

#[cfg(test)]
mod tests;
