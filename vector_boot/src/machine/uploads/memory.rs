//! The memory of uploads. It is used again: to get new pages takes the kernel longer than to copy bytes to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::sys::memory::{claim, file_len, memory_file, Mapping};

/// Larger memory is freed with its upload.
const KEPT_BYTES: usize = 64 << 20;
/// How long memory is kept for the next upload.
const KEPT_US: u64 = 10_000_000;

/// Memory for one upload.
pub struct UploadMemory {
    /// The memory file that `mapping` maps: it can be given to another process.
    file: File,
    mapping: Mapping,
    /// Bytes of the upload: the mapping can be longer.
    len: usize,
    /// Bytes from the first on whose pages this process has mapped: these are written without the kernel.
    warm: usize,
}

impl UploadMemory {
    fn new(len: usize) -> io::Result<Self> {
        let file = memory_file(c"upload")?;
        claim(file.as_fd(), len)?;
        let mapping = Mapping::shared(file.as_fd(), 0, len)?;
        Ok(UploadMemory { file: file.into(), mapping, len, warm: 0 })
    }

    /// The memory that another process has used for an upload of this length; `None` if the file is too short.
    pub fn of_file(file: OwnedFd, len: usize) -> Option<Self> {
        let capacity = usize::try_from(file_len(file.as_fd()).ok()?).ok().filter(|capacity| *capacity >= len)?;
        claim(file.as_fd(), capacity).ok()?;
        let mapping = Mapping::shared(file.as_fd(), 0, capacity).ok()?;
        Some(UploadMemory { file: file.into(), mapping, len, warm: 0 })
    }

    /// Bytes of the upload.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes of the upload; those that were not written yet have any value.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.bytes()[..self.len]
    }

    /// Writes a piece of the upload, which fits it.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn write(&mut self, offset: usize, piece: &[u8]) -> io::Result<()> {
        match offset + piece.len() <= self.warm {
            true => self.mapping.bytes_mut()[offset..offset + piece.len()].copy_from_slice(piece),
            // Written through the file, new pages need not be cleared first.
            false => self.file.write_all_at(piece, offset as u64)?,
        }
        Ok(())
    }

    /// Its memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its memory file, which this process no longer maps.
    pub fn into_file(self) -> OwnedFd {
        self.file.into()
    }
}

/// The memory of the last upload that was used up, for the next one of about the same length.
#[derive(Default)]
pub struct SpareMemory(Option<(UploadMemory, u64)>);

impl SpareMemory {
    /// Memory for an upload.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn take(&mut self, len: usize) -> io::Result<UploadMemory> {
        match self.0.take_if(|(memory, _)| (len..=2 * len).contains(&memory.mapping.bytes().len())) {
            Some((memory, _)) => Ok(UploadMemory { len, ..memory }),
            None => UploadMemory::new(len),
        }
    }

    /// Keeps the memory of an upload that is used up, all of whose bytes have been read, if it has at most `limit` bytes.
    pub fn keep(&mut self, memory: UploadMemory, limit: usize, now_us: u64) {
        if memory.mapping.bytes().len() <= limit.min(KEPT_BYTES) {
            let warm = memory.warm.max(memory.len);
            self.0 = Some((UploadMemory { warm, ..memory }, now_us));
        }
    }

    /// Frees what was not used again for a while.
    pub fn expire(&mut self, now_us: u64) {
        self.0.take_if(|(_, kept_us)| now_us.saturating_sub(*kept_us) > KEPT_US);
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Frees it.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}
