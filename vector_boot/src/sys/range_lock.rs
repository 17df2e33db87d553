//! Locks on ranges of bytes, which belong to an open file (fcntl(2), "open file description locks").

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Locks bytes for reading: others can lock them for reading too, and not for writing.
///
/// # Errors
/// WouldBlock if another open file has locked one of them for writing, and whatever fcntl(2) says.
pub fn share(file: &File, start: i64, bytes: i64) -> io::Result<()> {
    let wanted = range(libc::F_RDLCK, start, bytes);
    // SAFETY: a plain call on a live descriptor; `wanted` is live, and the kernel only reads it.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) }).map(drop)
}

/// Whether another open file has locked any of these bytes, for reading or for writing.
///
/// # Errors
/// Whatever fcntl(2) says.
pub fn is_taken(file: &File, start: i64, bytes: i64) -> io::Result<bool> {
    let mut asked = range(libc::F_WRLCK, start, bytes);
    // SAFETY: a plain call on a live descriptor; `asked` is live and exclusive, and the kernel overwrites it.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) })?;
    Ok(i32::from(asked.l_type) != libc::F_UNLCK)
}

/// What fcntl(2) wants to know.
fn range(kind: i32, start: i64, bytes: i64) -> libc::flock {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = start;
    range.l_len = bytes;
    range
}
