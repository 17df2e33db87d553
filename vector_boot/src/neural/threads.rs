//! What the steps of a pass share: the kernels, the threads, and the memory each thread works in.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::attention::HeadBuffers;
use super::kernels::Kernels;
use super::lanes::{Block, Tiles};
use super::linear::Panel;
use super::pool::ThreadPool;

/// Memory of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub panel: Panel,
    pub head: HeadBuffers,
    /// Decoded rows of tables and norms.
    pub rows: Vec<f32>,
}

/// The means of a pass.
pub(super) struct Threads<'a> {
    pub kernels: &'static Kernels,
    pub pool: &'a ThreadPool,
    pub scratch: &'a [Mutex<Scratch>],
    pub cancel: &'a AtomicBool,
}

impl Threads<'_> {
    /// Calls `body` once for each block of `features` by `tiles`, on all threads, unless the pass is cancelled.
    pub fn for_each_block(
        &self,
        matrix: &mut Tiles,
        shape: (usize, usize),
        body: &(dyn Fn(&mut Scratch, Block<'_>) + Sync),
    ) {
        self.pool.for_each_block(matrix, shape, self.cancel, &|thread, block| {
            // Each thread has its own, so this never waits.
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            body(&mut scratch, block);
        });
    }
}
