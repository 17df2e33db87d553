//! A change that cannot be undone, and so needs no copies of pages: for memory that is thrown away if the change fails.

use super::{PagedMemory, Pages, PAGE};
use crate::tensor::memory::scan::fingerprint;

/// A change in progress of memory that has no other user. Without [`Rewrite::finish`] the memory is not to be used any more.
pub struct Rewrite<'a> {
    memory: &'a mut PagedMemory,
    /// The pages that were changed, and the hash of each as it was.
    changed: Vec<(u32, u64)>,
}

impl PagedMemory {
    /// Starts a change that cannot be undone.
    pub fn rewrite(&mut self) -> Rewrite<'_> {
        Rewrite { memory: self, changed: Vec::new() }
    }
}

impl Rewrite<'_> {
    /// Ends the change.
    pub fn finish(self) {
        let Rewrite { memory, changed } = self;
        for (page, before) in changed {
            let delta = fingerprint(page, memory.page(page)).wrapping_sub(before);
            memory.fingerprint = memory.fingerprint.wrapping_add(delta);
            memory.saved.remove(page);
            memory.dirty.insert(page);
        }
    }
}

impl Pages for Rewrite<'_> {
    fn bytes(&self, address: usize, len: usize) -> &[u8] {
        self.memory.bytes(address, len)
    }

    fn write(&mut self, address: usize, new: &[u8]) {
        let mut done = 0;
        while done < new.len() {
            let at = address + done;
            let count = (PAGE - at % PAGE).min(new.len() - done);
            let piece = &new[done..done + count];
            if self.memory.bytes(at, count) != piece {
                let page = (at / PAGE) as u32;
                if self.memory.saved.insert(page) {
                    self.changed.push((page, fingerprint(page, self.memory.page(page))));
                }
                self.memory.bytes_mut(at, count).copy_from_slice(piece);
            }
            done += count;
        }
    }
}
