//! Applies a plan inside a transaction, in chunks of whole blocks.

use super::finite::all_finite;
use super::plan::{Plan, PlanStep, Target, Work};
use super::seeded::Seeded;
use super::sparse::SparseOp;
use super::{low_rank, seeded, sparse, ApplyError, BlockError};
use crate::tensor::memory::Pages;

/// Bytes of a chunk, about: its old and its new bytes stay in the second-level cache.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of a chunk that is only copied. A page between two chunks is looked at twice, so there are few.
const BYTES_CHUNK: usize = 256 << 10;

/// Applies all edits in order. `progress` is called between chunks.
///
/// # Errors
/// [`ApplyError`]; the transaction then holds a part of the edits.
pub fn apply(plan: &Plan<'_>, change: &mut dyn Pages, progress: &dyn Fn()) -> Result<(), ApplyError> {
    let mut scratch = Vec::with_capacity(CHUNK_BYTES);
    for PlanStep { target, work } in &plan.steps {
        let mut chunks = Chunks { target, change, scratch: &mut scratch, progress };
        let done = match work {
            Work::Bytes { offset, bytes } => chunks.bytes(*offset, bytes),
            Work::Elements { op, indices, values } => chunks.elements(*op, indices, values),
            Work::Product { factor, row_bytes, a, rank, scale } => {
                let rows = (CHUNK_BYTES / row_bytes).max(1);
                let mut a = a.chunks(rows * rank);
                chunks.each(rows * row_bytes, |_, blocks| {
                    let a = a.next().unwrap_or_default();
                    low_rank::apply(factor, target.tensor_type, *scale, a, blocks)
                })
            }
            Work::Noise(noise) => chunks.noise(noise),
        };
        // The plan has ruled out every other error.
        done.map_err(|_| ApplyError { tensor: target.index })?;
    }
    Ok(())
}

struct Chunks<'a> {
    target: &'a Target,
    change: &'a mut dyn Pages,
    scratch: &'a mut Vec<u8>,
    progress: &'a dyn Fn(),
}

impl Chunks<'_> {
    /// Lets `edit` change a copy of `len` bytes of the tensor from `start` on, and writes the copy back.
    fn one(
        &mut self,
        start: usize,
        len: usize,
        edit: impl FnOnce(&mut [u8]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let address = self.target.address + start;
        self.scratch.clear();
        self.scratch.extend_from_slice(self.change.bytes(address, len));
        edit(self.scratch)?;
        self.change.write(address, self.scratch);
        Ok(())
    }

    /// Writes whole blocks from this offset of the tensor on. Each chunk is checked and written while it is in the cache.
    fn bytes(&mut self, offset: usize, blocks: &[u8]) -> Result<(), BlockError> {
        let block_bytes = self.target.tensor_type.block_bytes() as usize;
        let chunk_bytes = BYTES_CHUNK / block_bytes * block_bytes;
        for (chunk, start) in blocks.chunks(chunk_bytes).zip((offset..).step_by(chunk_bytes)) {
            if !all_finite(self.target.tensor_type, chunk) {
                return Err(BlockError::NotFinite);
            }
            self.change.write(self.target.address + start, chunk);
            (self.progress)();
        }
        Ok(())
    }

    /// Lets `edit` change the whole tensor. Its first argument is the number of the chunk's first block.
    fn each(
        &mut self,
        chunk_bytes: usize,
        mut edit: impl FnMut(u64, &mut [u8]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let block_bytes = self.target.tensor_type.block_bytes();
        for start in (0..self.target.bytes).step_by(chunk_bytes) {
            let len = chunk_bytes.min(self.target.bytes - start);
            self.one(start, len, |blocks| edit(start as u64 / block_bytes, blocks))?;
            (self.progress)();
        }
        Ok(())
    }

    fn noise(&mut self, noise: &Seeded) -> Result<(), BlockError> {
        let tensor_type = self.target.tensor_type;
        let block_bytes = tensor_type.block_bytes() as usize;
        let chunk_bytes = CHUNK_BYTES / block_bytes * block_bytes;
        self.each(chunk_bytes, |first, blocks| seeded::apply(noise, tensor_type, first, blocks))
    }

    fn elements(&mut self, op: SparseOp, mut indices: &[u64], mut values: &[f32]) -> Result<(), BlockError> {
        let tensor_type = self.target.tensor_type;
        let (elements, block_bytes) = (tensor_type.block_elements(), tensor_type.block_bytes() as usize);
        // Elements may lie far apart: one copy covers elements whose blocks are near each other only.
        const NEAR: u64 = 256;
        while let Some(first) = indices.first() {
            let first = first / elements;
            let count = indices.partition_point(|index| index / elements < first + NEAR);
            let last = indices[count - 1] / elements;
            let len = (last - first + 1) as usize * block_bytes;
            let (these, those) = (&indices[..count], &values[..count]);
            self.one(first as usize * block_bytes, len, |blocks| {
                sparse::apply(op, tensor_type, first, blocks, these, those)
            })?;
            (indices, values) = (&indices[count..], &values[count..]);
        }
        Ok(())
    }
}
