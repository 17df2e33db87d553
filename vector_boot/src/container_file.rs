//! Reads container files from disk in bounded pieces. Nothing is mapped, so a file that shrinks meanwhile gives an error
//! and not a SIGBUS.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::gguf::{Gguf, GgufError, HeadError, METADATA_LIMIT};
use crate::rts::Container;

/// Lengths of the head that are read in turn until the metadata ends. Most small models need only the first, those with a
/// vocabulary one or two more. A larger first window costs a page fault for each 4 KiB, a further window one more parse.
const WINDOWS: [u64; 6] = [16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, METADATA_LIMIT];
const HASH_CHUNK: usize = 256 << 10;

/// A source of bytes that can be read from any offset.
pub trait ReadAt {
    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// If reading fails or the end comes first.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }
}

/// A part of a disk, such as a partition of its image.
pub struct Part {
    disk: File,
    start: u64,
}

impl ReadAt for Part {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let at = self.start.checked_add(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        FileExt::read_exact_at(&self.disk, bytes, at)
    }
}

/// An open regular file or block device of known length.
pub struct ContainerFile<R = File> {
    pub(crate) source: R,
    /// Bytes in the file or on the device.
    pub len: u64,
    /// Which of the two it is.
    pub container: Container,
}

impl ContainerFile<File> {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// If it cannot be opened or is anything else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let kind = std::fs::metadata(path)?.file_type(); // before opening: a FIFO would block
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("neither a regular file nor a block device"));
        }
        Self::from_open(File::open(path)?)
    }

    /// Takes a regular file or a block device that is open already.
    ///
    /// # Errors
    /// If its length cannot be determined.
    pub fn from_open(mut file: File) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        let is_file = file.metadata()?.file_type().is_file();
        let container = if is_file { Container::File } else { Container::BlockDevice };
        Ok(ContainerFile { source: file, len, container })
    }

    /// The `len` bytes from `start`, which may hold anything behind the container, as a block device may.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn part(self, start: u64, len: u64) -> io::Result<ContainerFile<Part>> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            let what = format!("it has {} bytes, expected {len} bytes from byte {start}", self.len);
            return Err(io::Error::other(what));
        }
        Ok(ContainerFile { source: Part { disk: self.source, start }, len, container: Container::BlockDevice })
    }
}

impl<R: ReadAt> ContainerFile<R> {
    /// Up to `count` bytes from `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read(&self, offset: u64, count: u64) -> io::Result<Vec<u8>> {
        let count = count.min(self.len.saturating_sub(offset));
        let mut bytes = vec![0; count as usize];
        self.source.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// SHA-256 of `count` bytes from `offset`.
    ///
    /// # Errors
    /// If reading fails.
    pub fn sha256(&self, mut offset: u64, count: u64) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; HASH_CHUNK.min(count as usize)];
        let end = offset + count;
        while offset < end {
            let chunk = &mut buffer[..HASH_CHUNK.min((end - offset) as usize)];
            self.source.read_exact_at(chunk, offset)?;
            hash.update(&*chunk);
            offset += chunk.len() as u64;
        }
        Ok(hash.finalize().into())
    }

    /// Parses the GGUF of `len` bytes at `offset` and calls `use_it` with it. Only its metadata is read.
    ///
    /// # Errors
    /// If reading fails; the inner result is the parser's refusal.
    pub fn with_gguf<T>(
        &self,
        offset: u64,
        len: u64,
        use_it: impl FnOnce(&Gguf<'_>) -> T,
    ) -> io::Result<Result<T, GgufError>> {
        for window in WINDOWS {
            let head = self.read(offset, window.min(len))?;
            match Gguf::parse_head(&head, len) {
                Ok(gguf) => return Ok(Ok(use_it(&gguf))),
                Err(HeadError::Invalid(error)) => return Ok(Err(error)),
                Err(HeadError::HeadTooShort) => (),
            }
        }
        // Unreachable: within the limit the parser refuses before it asks for more.
        Err(io::Error::other("the metadata does not end"))
    }
}
