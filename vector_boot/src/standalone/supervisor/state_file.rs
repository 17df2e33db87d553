//! Opens the state device, so that a worker without rights can use it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys::memory::Mapping;
use crate::sys::power::is_read_only_device;
use crate::sys::range_lock;

/// How long a machine that is being killed is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that QEMU locks in the file of a disk, and how many: one from 100 on for each thing that it does with the file, and
/// one from 200 on for each that others may not do. The second of them stands for writing.
const QEMU_LOCKS: (i64, i64) = (100, 200);
const QEMU_WRITES: i64 = 101;
const QEMU_WRITES_ALONE: i64 = 201;
/// Bytes of a block.
const BLOCK: usize = 4096;

/// The open state device.
pub struct StateFile {
    /// The device.
    pub file: File,
    /// Whether it can be written.
    pub writable: bool,
}

/// Opens and locks the file or device that `--state` names.
///
/// # Errors
/// One sentence if it cannot be opened, or if another machine uses it.
pub fn of_path(path: &Path) -> Result<StateFile, String> {
    let name = path.display();
    let kind = match fs::metadata(path) {
        Ok(status) => status.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(format!("{name}: there is no such file: make it first, for example with `truncate -s 256M`"));
        }
        Err(error) => return Err(format!("{name}: it cannot be found ({error}): name a file or a disk")),
    };
    let what = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
    ];
    if let Some((_, what)) = what.into_iter().find(|(is_it, _)| *is_it) {
        return Err(format!("{name}: expected a regular file or a block device, got {what}: name a file or a disk"));
    }
    let unusable = |error| format!("{name}: it cannot be the state device ({error}): name a file or a disk of yours");
    let mut state = open(path).map_err(unusable)?;
    state.file.seek(SeekFrom::End(0)).map_err(unusable)?; // files of the kernel have no end
    if kind.is_file() && state.file.metadata().map_err(unusable)?.nlink() == 0 {
        return Err(format!("{name}: the file was deleted, so nobody would find its changes: name one in a folder"));
    }
    lock(&state).map_err(|why| format!("{name}: {why}"))?;
    Ok(state)
}

/// Opens a device, without the page cache if that is possible, and to be read only if it cannot be written.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> io::Result<StateFile> {
    let with = |writable: bool, flags: i32| {
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)
    };
    let direct = |writable: bool| match with(writable, libc::O_DIRECT) {
        Ok(file) if reads(&file) => Ok(file),
        Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
        _ => with(writable, 0),
    };
    match direct(true) {
        Ok(file) if is_read_only_device(&file) => Ok(StateFile { file: direct(false)?, writable: false }),
        Ok(file) => Ok(StateFile { file, writable: true }),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            Ok(StateFile { file: direct(false)?, writable: false })
        }
        Err(error) => Err(error),
    }
}

/// Whether direct reads work: some file systems refuse them only then.
fn reads(file: &File) -> bool {
    let Ok(mut block) = Mapping::zeroed(BLOCK) else { return false };
    file.read_at(block.bytes_mut(), 0).is_ok()
}

/// Locks the device for this machine, or for readers if it can only be read.
///
/// # Errors
/// One sentence if another machine uses it.
pub fn lock(state: &StateFile) -> Result<(), String> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match try_lock(state) {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(false) => {
                return Err("another machine uses it: stop that one, or give this one a file of its own".into());
            }
            Err(error) => return Err(format!("it cannot be locked: {error}")),
        }
    }
}

/// Whether no other machine has locked the device, and this one now has: against machines that listen with the lock of the
/// whole file, against those in QEMU with QEMU's locks. Like QEMU it takes its own before it looks for those of others.
fn try_lock(state: &StateFile) -> io::Result<bool> {
    let locked = if state.writable { state.file.try_lock() } else { state.file.try_lock_shared() };
    match locked {
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) if !state.writable => return Ok(true),
        Ok(()) => (),
    }
    for byte in [QEMU_WRITES, QEMU_WRITES_ALONE] {
        match range_lock::share(&state.file, byte, 1) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            shared => shared?,
        }
    }
    range_lock::is_taken(&state.file, QEMU_LOCKS.0, QEMU_LOCKS.1).map(|taken| !taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_once() {
        let path = std::env::temp_dir().join(format!("vector_boot-lock-{}", std::process::id()));
        assert!(of_path(&path).err().unwrap().contains("no such file"));
        for (other, what) in [
            ("/proc", "got a folder"),
            ("/dev/null", "got a character device"),
            ("/proc/version", "cannot be the state"),
        ] {
            let said = of_path(Path::new(other)).err().unwrap();
            assert!(
                said.contains(what) && said.ends_with("name a file or a disk") | said.ends_with("of yours"),
                "{said}"
            );
        }
        fs::write(&path, [0; 1 << 16]).unwrap();
        let first = of_path(&path).unwrap();
        assert!(first.writable);
        assert!(of_path(&path).err().unwrap().contains("another machine uses it"));
        drop(first);
        assert!(of_path(&path).is_ok());
        fs::remove_file(&path).unwrap();
    }
}
