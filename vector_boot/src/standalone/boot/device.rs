//! A partition, or a part of an image file, as the device of [`crate::esp`].

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::esp::Device;
use crate::sys::cache;

/// An open partition, or a part of an open file.
pub struct PartitionDevice {
    file: File,
    start: u64,
    size: u64,
}

impl PartitionDevice {
    /// The whole of an open partition.
    ///
    /// # Errors
    /// If its size cannot be found.
    pub fn whole(mut file: File) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        Ok(PartitionDevice { file, start: 0, size })
    }
}

impl Device for PartitionDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.file.read_exact_at(bytes, self.start + offset)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.file.write_all_at(bytes, self.start + offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        cache::forget(&self.file)
    }
}

impl PartitionDevice {
    fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the partition")),
        }
    }
}
