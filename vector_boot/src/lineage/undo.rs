//! Before-images of the newest generations, in bounded memory.

use std::collections::VecDeque;

use crate::tensor::memory::{BeforeImages, PagedMemory, Transaction};

/// The before-images of the newest generations.
pub struct Undo {
    /// Consecutive generations, the oldest first.
    steps: VecDeque<UndoStep>,
    bytes: usize,
    budget: usize,
    /// The newest permanent generation.
    settled: u64,
}

/// A generation, and the pages that it changed as they were before it.
struct UndoStep {
    generation: u64,
    before: BeforeImages,
}

impl Undo {
    /// Keeps at most `budget` bytes, but always the newest generation.
    pub fn new(budget: usize) -> Self {
        Undo { steps: VecDeque::new(), bytes: 0, budget, settled: 0 }
    }

    /// Adds the before-images of the next generation, which may still be [taken back](Undo::take_above).
    pub fn push(&mut self, generation: u64, before: BeforeImages) {
        self.bytes += before.size();
        self.steps.push_back(UndoStep { generation, before });
    }

    /// Generations up to this one are permanent: removes the oldest before-images above the budget, and returns them.
    pub fn settle(&mut self, generation: u64) -> Vec<BeforeImages> {
        self.settled = generation;
        let mut old = Vec::new();
        while self.bytes > self.budget && self.steps.len() > 1 {
            old.extend(self.remove_oldest());
        }
        old
    }

    /// Removes the before-images of the generations above this one, and returns them, the newest first.
    pub fn take_above(&mut self, generation: u64) -> Vec<BeforeImages> {
        let first = self.steps.partition_point(|step| step.generation <= generation);
        let taken: Vec<BeforeImages> = self.steps.drain(first..).map(|step| step.before).rev().collect();
        self.bytes -= taken.iter().map(BeforeImages::size).sum::<usize>();
        taken
    }

    /// Drops those of all permanent generations. Returns the number of bytes freed.
    pub fn clear(&mut self) -> usize {
        let bytes = self.bytes;
        while self.steps.front().is_some_and(|step| step.generation <= self.settled) {
            self.remove_oldest();
        }
        bytes - self.bytes
    }

    fn remove_oldest(&mut self) -> Option<BeforeImages> {
        let oldest = self.steps.pop_front()?.before;
        self.bytes -= oldest.size();
        Some(oldest)
    }

    /// Bytes of memory that they use.
    pub fn size(&self) -> usize {
        self.bytes
    }

    /// Whether the before-images reach back to generation `to`.
    pub fn reaches(&self, to: u64) -> bool {
        self.steps.front().is_some_and(|oldest| to + 1 >= oldest.generation)
    }

    /// Writes the contents of generation `to`, which they reach, into memory that holds the current ones.
    pub fn restore_in(&self, to: u64, memory: &mut PagedMemory) {
        for step in self.steps.iter().rev().take_while(|step| step.generation > to) {
            for (page, bytes) in step.before.iter() {
                let len = memory.page_bytes(page);
                memory.restore_page(page, &bytes[..len]);
            }
        }
    }

    /// Restores the contents of generation `to`; returns false if the before-images do not reach back that far.
    pub fn restore(&self, to: u64, change: &mut Transaction<'_>) -> bool {
        let reaches = self.reaches(to);
        if reaches {
            // Newest first: of several images of a page, the oldest is written last.
            for step in self.steps.iter().rev().take_while(|step| step.generation > to) {
                step.before.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
            }
        }
        reaches
    }
}
