//! Storage for the bytes of a log: memory, or a block device.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::Payload;
use crate::sys::memory::Mapping;
use crate::tensor::memory::PAGE;

/// Bytes that can be read and written at offsets.
pub trait LogStorage: Send + Sync {
    /// Fills `buffer` from `offset` on; bytes that were never written read as zero.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// `len` bytes from `offset` on, without a copy of them where the storage is memory.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn payload(&self, offset: u64, len: usize) -> io::Result<Payload> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes)?;
        Ok(Payload::Read(bytes))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Frees the memory of a range that is no longer needed.
    fn discard(&mut self, offset: u64, len: u64);
}

/// A device with blocks of 4,096 bytes. Offsets and lengths are multiples of that.
pub trait BlockDevice: Send + Sync {
    /// Bytes of the device.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. They are on stable storage only after the next [`BlockDevice::flush`].
    ///
    /// # Errors
    /// If they cannot be written; any of the blocks may have changed then.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything that was written is on stable storage.
    ///
    /// # Errors
    /// If that fails; any of the blocks written since the last flush may be lost then.
    fn flush(&mut self) -> io::Result<()>;

    /// Why what is on stable storage is not found by whoever opens the device later, as a sentence without a subject.
    fn loss(&self) -> Option<String> {
        None
    }
}

/// A payload of this size is mapped instead of copied.
const MAPPED_BYTES: usize = 256 << 10;

/// A memory file (memfd), which may exist longer than the process.
pub struct MemoryFile(pub File);

impl LogStorage for MemoryFile {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => {
                    buffer[done..].fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn payload(&self, offset: u64, len: usize) -> io::Result<Payload> {
        if len < MAPPED_BYTES {
            let mut bytes = vec![0; len];
            self.read(offset, &mut bytes)?;
            return Ok(Payload::Read(bytes));
        }
        // Entries are never written again. One that another process removes meanwhile turns to zeros, which its checksum
        // and the fingerprint of the weights reveal.
        let start = (offset % PAGE as u64) as usize;
        let mapping = Mapping::private(self.0.as_fd(), offset - start as u64, start + len)?;
        Ok(Payload::Mapped(mapping, start))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn discard(&mut self, offset: u64, len: u64) {
        crate::sys::memory::punch_hole(&self.0, offset, len);
    }
}
