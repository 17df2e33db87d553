//! The bytes of all tensors, and the transactions that change them: a private mapping of the model's file, followed by
//! the machine's own tensors. The unit is the page; a page that was never changed uses no memory.

mod before;
mod page_set;
mod rewrite;
mod scan;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::sys::memory::{claim, Mapping};
pub use before::BeforeImages;
use before::SpareBlocks;
use page_set::PageSet;
use scan::{count_differing, fingerprint_delta, PageScan};

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
    /// Those of them that were compared with their before-image when they were written, and not written since.
    scanned: PageSet,
    spare: SpareBlocks,
}

impl PagedMemory {
    /// Places `extra` after `weights`, from the next page on.
    pub fn new(weights: Mapping, extra: Mapping) -> Self {
        let extra_at = weights.bytes().len().next_multiple_of(PAGE);
        let pages = (extra_at + extra.bytes().len()).div_ceil(PAGE);
        let [dirty, saved, scanned] = [(); 3].map(|()| PageSet::new(pages));
        let spare = SpareBlocks::default();
        PagedMemory { weights, extra, extra_at, fingerprint: 0, dirty, saved, scanned, spare }
    }

    /// The bytes of the model's file, with their changes.
    pub fn weights(&self) -> &[u8] {
        self.weights.bytes()
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
        let delta = fingerprint_delta(page, self.bytes(address, len), new);
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
        self.dirty.len()
    }

    /// Bytes of the pages that were never changed.
    pub fn clean_bytes(&self) -> u64 {
        u64::from(self.pages().saturating_sub(self.dirty_count())) * PAGE as u64
    }

    /// Uses the memory of before-images that are no longer needed for later ones, in bounds.
    pub fn reuse(&mut self, old: BeforeImages) {
        self.spare.add(old);
    }

    /// Frees the memory that waits for later before-images. Returns the number of bytes freed.
    pub fn drop_spare(&mut self) -> usize {
        self.spare.clear()
    }

    fn forget_transaction(&mut self, page: u32) {
        self.saved.remove(page);
        self.scanned.remove(page);
    }

    /// Starts a transaction.
    pub fn begin(&mut self) -> Transaction<'_> {
        Transaction { memory: self, before: BeforeImages::default(), open: true, scans: Vec::new(), delta: None }
    }
}

/// Bytes that a change reads and writes.
pub trait Pages {
    /// `len` bytes from `address` as they are now.
    fn bytes(&self, address: usize, len: usize) -> &[u8];

    /// Replaces the bytes from `address` on. Pages whose bytes stay the same are not touched.
    fn write(&mut self, address: usize, new: &[u8]);
}

/// A change in progress. If it is dropped without [`Transaction::commit`], everything is as before.
pub struct Transaction<'a> {
    memory: &'a mut PagedMemory,
    before: BeforeImages,
    open: bool,
    /// One for each before-image; valid for the scanned pages.
    scans: Vec<PageScan>,
    /// By how much the fingerprint changes, if nothing was written since that was computed.
    delta: Option<u64>,
}

impl Pages for Transaction<'_> {
    fn bytes(&self, address: usize, len: usize) -> &[u8] {
        self.memory.bytes(address, len)
    }

    fn write(&mut self, address: usize, new: &[u8]) {
        self.delta = None;
        let mut done = 0;
        while done < new.len() {
            let at = address + done;
            let count = (PAGE - at % PAGE).min(new.len() - done);
            let piece = &new[done..done + count];
            if self.memory.bytes(at, count) != piece {
                let page = (at / PAGE) as u32;
                let fresh = self.save(page);
                self.memory.bytes_mut(at, count).copy_from_slice(piece);
                match fresh && count == PAGE {
                    true => self.scan_newest(page),
                    false => self.memory.scanned.remove(page),
                }
            }
            done += count;
        }
    }
}

impl Transaction<'_> {
    /// Replaces a page; bytes beyond the end of its mapping are ignored.
    pub fn write_page(&mut self, page: u32, new: &[u8]) {
        let (address, len) = self.memory.extent(page);
        self.write(address, &new[..len.min(new.len())]);
    }

    /// Saves a page unless that was done; returns whether it had to be.
    fn save(&mut self, page: u32) -> bool {
        let fresh = self.memory.saved.insert(page);
        if fresh {
            self.before.make_room(&mut self.memory.spare);
            self.before.push(page, self.memory.page(page));
            self.scans.push(PageScan::default());
        }
        fresh
    }

    /// Scans the page that was saved last, while it is in the cache.
    fn scan_newest(&mut self, page: u32) {
        if let (Some(scan), Some(before)) = (self.scans.last_mut(), self.before.newest()) {
            *scan = PageScan::of(page, before, self.memory.page(page));
            self.memory.scanned.insert(page);
        }
    }

    /// The saved pages with their bytes before and their scans.
    fn scans(&self) -> impl Iterator<Item = (u32, &[u8], PageScan)> {
        self.before.iter().zip(&self.scans).map(|((page, before), scan)| match self.memory.scanned.contains(page) {
            true => (page, before, *scan),
            false => (page, before, PageScan::of(page, before, self.memory.page(page))),
        })
    }

    /// For each range, the number of bytes that the transaction has changed so far. The ranges may have any order, but
    /// must not overlap.
    pub fn changed_bytes(&mut self, ranges: &[Range<usize>]) -> Vec<u64> {
        let mut order: Vec<usize> = (0..ranges.len()).filter(|index| !ranges[*index].is_empty()).collect();
        order.sort_unstable_by_key(|index| ranges[*index].start);
        let (mut changed, mut delta) = (vec![0; ranges.len()], 0u64);
        for (page, before, scan) in self.scans() {
            let (start, after) = (page as usize * PAGE, self.memory.page(page));
            let first = order.partition_point(|index| ranges[*index].end <= start);
            for index in order[first..].iter().take_while(|index| ranges[**index].start < start + after.len()) {
                let range = &ranges[*index];
                let (from, to) = (range.start.max(start) - start, range.end.min(start + after.len()) - start);
                changed[*index] += match to - from == after.len() {
                    true => scan.changed,
                    false => count_differing(&before[from..to], &after[from..to]),
                };
            }
            delta = delta.wrapping_add(scan.delta);
        }
        self.delta = Some(delta);
        changed
    }

    fn undo(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let before = std::mem::take(&mut self.before);
        for (page, bytes) in before.iter() {
            let (address, len) = self.memory.extent(page);
            self.memory.bytes_mut(address, len).copy_from_slice(&bytes[..len]);
            self.memory.forget_transaction(page);
        }
    }

    /// Makes the change permanent, and returns the pages as they were before it.
    pub fn commit(mut self) -> BeforeImages {
        self.open = false;
        let sum = || self.scans().map(|(.., scan)| scan.delta).fold(0, u64::wrapping_add);
        let delta = self.delta.unwrap_or_else(sum);
        let before = std::mem::take(&mut self.before);
        self.memory.fingerprint = self.memory.fingerprint.wrapping_add(delta);
        for page in before.pages() {
            self.memory.forget_transaction(page);
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

#[cfg(test)]
mod tests;
