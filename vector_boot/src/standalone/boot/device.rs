//! A partition, or a part of an image file, as the device of [`crate::esp`].

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::container_file::{ContainerFile, ReadAt};
use crate::esp::Device;
use crate::rts::Container;
use crate::sys::cache;

/// An open partition, or a part of an open file.
pub struct PartitionDevice {
    file: File,
    start: u64,
    size: u64,
}

impl PartitionDevice {
    /// The whole of an open partition. It is read from the disk: after a write that failed, the cache of the kernel shows
    /// what was to be written.
    ///
    /// # Errors
    /// If its size cannot be found, or an earlier write cannot be completed.
    pub fn whole(mut file: File) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        file.sync_data()?;
        cache::forget(&file)?;
        Ok(PartitionDevice { file, start: 0, size })
    }

    /// `size` bytes of a file or disk, from `start` on.
    ///
    /// # Errors
    /// If it ends before.
    pub fn part(file: File, start: u64, size: u64) -> io::Result<Self> {
        let whole = PartitionDevice::whole(file)?;
        let part = PartitionDevice { file: whole.file, start, size };
        match start.checked_add(size) {
            Some(end) if end <= whole.size => Ok(part),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a partition ends behind the disk")),
        }
    }

    /// The partition as the place of an RTS image.
    pub fn container(self) -> ContainerFile<Self> {
        ContainerFile { len: self.size, source: self, container: Container::BlockDevice }
    }
}

impl ReadAt for PartitionDevice {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        Device::read(self, offset, bytes)
    }
}

impl Device for PartitionDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        FileExt::read_exact_at(&self.file, bytes, self.start + offset)
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
