//! The page cache.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Drops the pages of a file or device that are on stable storage, so that they are read from there.
///
/// # Errors
/// Whatever posix_fadvise(2) says.
pub fn forget(file: &File) -> io::Result<()> {
    // SAFETY: plain call on a live descriptor.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
