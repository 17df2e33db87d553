//! Whether an open file is still the one that was opened.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// What changes when a file is written, as its open descriptor reports it. A file that another one replaces by name is
/// still the same through the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    bytes: i64,
    modified_s: i64,
    modified_ns: i64,
}

/// Makes one system call, `fstat`, whatever the C library: the worker's filter allows it by number.
fn status_of(file: &File) -> io::Result<libc::stat> {
    // SAFETY: all zeros is a valid value; on 64-bit Linux the kernel's struct is the C library's.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is live, and large enough for what the kernel writes.
    let result = unsafe { libc::syscall(libc::SYS_fstat, file.as_raw_fd(), &raw mut status) };
    check(result as libc::c_int)?;
    Ok(status)
}

/// Why what is written to an open file is not found by whoever opens it later, as a sentence without a subject: a regular file
/// that has no name any more, or less than `bytes` bytes. `None` for one that is kept, and for a device.
pub fn loss(file: &File, bytes: u64) -> Option<String> {
    let status = match status_of(file) {
        Ok(status) => status,
        Err(error) => return Some(format!("can no longer be examined ({error})")),
    };
    let now = u64::try_from(status.st_size).unwrap_or(0);
    match status.st_mode & libc::S_IFMT == libc::S_IFREG {
        true if status.st_nlink == 0 => Some("was deleted or replaced".into()),
        true if now < bytes => Some(format!("was cut short, from {bytes} bytes to {now},")),
        _ => None,
    }
}

/// The bytes of a regular file that are stored; those that were never written are not. 0 for a device.
///
/// # Errors
/// If the file cannot be examined.
pub fn stored(file: &File) -> io::Result<u64> {
    let status = status_of(file)?;
    let is_file = status.st_mode & libc::S_IFMT == libc::S_IFREG;
    Ok(if is_file { u64::try_from(status.st_blocks).unwrap_or(0) * 512 } else { 0 })
}

impl FileState {
    fn of(file: &File) -> io::Result<Self> {
        let status = status_of(file)?;
        Ok(FileState {
            device: status.st_dev,
            inode: status.st_ino,
            bytes: status.st_size,
            modified_s: status.st_mtime,
            modified_ns: status.st_mtime_nsec,
        })
    }
}

/// A regular file that must stay as it is.
pub struct Watch {
    file: File,
    state: FileState,
}

impl Watch {
    /// Watches `file` from now on, through a descriptor of its own; `None` for a device, whose times say nothing.
    ///
    /// # Errors
    /// If the file's state cannot be read.
    pub fn new(file: &File) -> io::Result<Option<Self>> {
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let file = file.try_clone()?;
        let state = FileState::of(&file)?;
        Ok(Some(Watch { file, state }))
    }

    /// What has changed since [`Watch::new`], as a sentence without a subject; `None` if nothing has.
    pub fn change(&self) -> Option<String> {
        let now = match FileState::of(&self.file) {
            Ok(now) => now,
            Err(error) => return Some(format!("can no longer be examined: {error}")),
        };
        if now == self.state {
            return None;
        }
        Some(match (self.state.bytes, now.bytes) {
            (before, after) if before == after => "was written to while it was in use".to_string(),
            (before, after) => format!("was {before} bytes long and is {after} now, while it was in use"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, SystemTime};

    #[test]
    fn every_kind_of_change_is_seen() {
        let folder = std::env::temp_dir().join(format!("vector_boot-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model");
        std::fs::write(&path, "contents").unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        let watch = |file: &File| Watch::new(file).unwrap().unwrap();
        let unchanged = watch(&file);
        assert_eq!(unchanged.change(), None);
        std::fs::rename(&path, folder.join("other")).unwrap();
        std::fs::write(&path, "another file").unwrap();
        assert_eq!(unchanged.change(), None); // the open one is the same
        file.write_all(b"CONTENTS").unwrap();
        assert_eq!(unchanged.change().as_deref(), Some("was written to while it was in use"));
        let truncated = watch(&file);
        file.set_len(3).unwrap();
        assert_eq!(truncated.change().as_deref(), Some("was 8 bytes long and is 3 now, while it was in use"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_without_a_name_or_an_end_is_lost() {
        let path = std::env::temp_dir().join(format!("vector_boot-loss-{}", std::process::id()));
        let (moved, other) = (path.with_extension("moved"), path.with_extension("other"));
        std::fs::write(&path, "contents").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(loss(&file, 8), None); // it has another name
        file.set_len(7).unwrap();
        assert_eq!(loss(&file, 8).as_deref(), Some("was cut short, from 8 bytes to 7,"));
        file.set_len(9).unwrap();
        assert_eq!(loss(&file, 8), None);
        std::fs::write(&other, "another file").unwrap();
        std::fs::rename(&other, &moved).unwrap();
        assert_eq!(loss(&file, 8).as_deref(), Some("was deleted or replaced"));
        std::fs::remove_file(&moved).unwrap();
        assert_eq!(loss(&File::open("/dev/null").unwrap(), 8), None);
    }

    #[test]
    fn devices_are_not_watched() {
        assert!(Watch::new(&File::open("/dev/null").unwrap()).unwrap().is_none());
    }
}
