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

impl FileState {
    /// Makes one system call, `fstat`, whatever the C library: the worker's filter allows it by number.
    fn of(file: &File) -> io::Result<Self> {
        // SAFETY: all zeros is a valid value; on 64-bit Linux the kernel's struct is the C library's.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `status` is live, and large enough for what the kernel writes.
        let result = unsafe { libc::syscall(libc::SYS_fstat, file.as_raw_fd(), &raw mut status) };
        check(result as libc::c_int)?;
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
    fn devices_are_not_watched() {
        assert!(Watch::new(&File::open("/dev/null").unwrap()).unwrap().is_none());
    }
}
