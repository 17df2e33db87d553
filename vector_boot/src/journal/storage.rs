//! Storage for the bytes of a log: memory, or a block device.

use std::io;

use super::Payload;

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

    /// A range is no longer needed, nor anything before it.
    fn discard(&mut self, offset: u64, len: u64);

    /// Gives back the memory of discarded ranges that is more than what is kept for later. For the process that writes: what
    /// another one takes for discarded may hold something new already.
    fn trim(&mut self) {}

    /// Looks at what another process has written since.
    ///
    /// # Errors
    /// If it cannot be read.
    fn refresh(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Frees memory that is kept for later. Returns the number of bytes.
    fn drop_spare(&mut self) -> u64 {
        0
    }
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

    /// Whether less of the device is stored than when this was asked last: it may be a file that was cut short and made as long
    /// again.
    fn has_shrunk(&self) -> bool {
        false
    }
}
