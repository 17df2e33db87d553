//! What the steps of a pass share: the kernels, the threads, and the memory that each thread works in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::kernels::Kernels;
use super::lanes::{BlockSize, TileBlock, Tiles};
use super::pool::ThreadPool;

/// Runs the steps of one pass. `S` is the memory that one thread works in.
pub(super) struct Threads<'a, S> {
    pub kernels: &'static Kernels,
    pub pool: &'a ThreadPool,
    /// At least one for each thread of the pool.
    pub scratch: &'a [Mutex<S>],
    pub cancel: &'a AtomicBool,
}

impl<S: Send> Threads<'_, S> {
    /// Calls `body` once for each block of `size`, on all threads, unless the pass is cancelled.
    pub fn for_each_block(&self, matrix: &mut Tiles, size: BlockSize, body: &(dyn Fn(&mut S, TileBlock<'_>) + Sync)) {
        self.pool.for_each_block(matrix, size, self.cancel, &|thread, block| {
            // Each thread locks its own scratch memory, so this never waits.
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            body(&mut scratch, block);
        });
    }

    /// Whether the pass was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
