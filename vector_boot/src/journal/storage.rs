//! Storage for the bytes of a log: memory, or a block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that can be read and written at offsets.
pub trait LogStorage: Send + Sync {
    /// Fills `buffer` from `offset` on; bytes that were never written read as zero.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

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
}

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

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn discard(&mut self, offset: u64, len: u64) {
        crate::sys::memory::punch_hole(&self.0, offset, len);
    }
}
