//! Before-images of the newest generations, in bounded memory.

use std::collections::VecDeque;

use crate::tensor::memory::{BeforeImages, Transaction};

/// What each of the newest generations replaced.
pub struct Undo {
    /// The generation, and the pages as they were before it; generations without a gap.
    steps: VecDeque<(u64, BeforeImages)>,
    bytes: usize,
    budget: usize,
}

impl Undo {
    /// Keeps at most `budget` bytes, but always the newest generation.
    pub fn new(budget: usize) -> Self {
        Undo { steps: VecDeque::new(), bytes: 0, budget }
    }

    /// Adds what `generation`, the next one, replaced; forgets the oldest for it.
    pub fn push(&mut self, generation: u64, before: BeforeImages) {
        self.bytes += before.size();
        self.steps.push_back((generation, before));
        while self.bytes > self.budget && self.steps.len() > 1 {
            if let Some((_, before)) = self.steps.pop_front() {
                self.bytes -= before.size();
            }
        }
    }

    /// Forgets all of them. Tells how many bytes that frees.
    pub fn clear(&mut self) -> usize {
        self.steps.clear();
        std::mem::take(&mut self.bytes)
    }

    /// Puts the contents of generation `to` back; false if it is too old for that.
    pub fn restore(&self, to: u64, change: &mut Transaction<'_>) -> bool {
        let reaches = self.steps.front().is_some_and(|(oldest, _)| to + 1 >= *oldest);
        if reaches {
            // Newest first: the image that is written last is the oldest one.
            for (_, before) in self.steps.iter().rev().take_while(|(generation, _)| *generation > to) {
                before.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
            }
        }
        reaches
    }
}
