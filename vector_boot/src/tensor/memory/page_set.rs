//! Sets of pages.

/// A set of page numbers.
pub struct PageSet(Vec<u64>);

impl PageSet {
    /// An empty set of pages with numbers below `pages`.
    pub fn new(pages: usize) -> Self {
        PageSet(vec![0; pages.div_ceil(64)])
    }

    /// Adds a page; returns whether it was not in the set before.
    pub fn insert(&mut self, page: u32) -> bool {
        let (cell, bit) = (&mut self.0[page as usize / 64], 1u64 << (page % 64));
        let fresh = *cell & bit == 0;
        *cell |= bit;
        fresh
    }

    /// Whether it has a page.
    pub fn contains(&self, page: u32) -> bool {
        self.0[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// Removes a page.
    pub fn remove(&mut self, page: u32) {
        self.0[page as usize / 64] &= !(1u64 << (page % 64));
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|cell| cell.count_ones()).sum()
    }

    /// The pages, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let cells = self.0.iter().enumerate().filter(|(_, cell)| **cell != 0);
        cells.flat_map(|(index, cell)| {
            (0..64).filter(move |bit| cell >> bit & 1 == 1).map(move |bit| (index * 64 + bit) as u32)
        })
    }
}
