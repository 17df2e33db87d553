//! Landlock: the kernel denies this process every file that it has not opened yet, whatever its user may do.
//!
//! By system calls and not by a crate: three calls without a rule need no builder of rules.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Asks for the version of Landlock in place of making a ruleset.
const VERSION: u32 = 1;

/// What a ruleset denies, as the kernel declares it. An older kernel takes the first fields only.
#[repr(C)]
struct Denied {
    files: u64,
    network: u64,
    scopes: u64,
}

impl Denied {
    /// All that version `abi` can deny, and how many bytes of it that version knows.
    fn all(abi: i64) -> (Self, usize) {
        let bits = |count: u32| (1u64 << count) - 1;
        // Version 1: 13 rights to files; 2: moving between folders; 3: truncation; 5: ioctl of devices.
        let files = bits(match abi {
            1 => 13,
            2 => 14,
            3 | 4 => 15,
            _ => 16,
        });
        // Version 4: binding and connecting by TCP; 6: signals and abstract sockets of other processes.
        let (network, scopes) = (if abi >= 4 { bits(2) } else { 0 }, if abi >= 6 { bits(2) } else { 0 });
        let bytes = match abi {
            1..=3 => 8,
            4 | 5 => 16,
            _ => 24,
        };
        (Denied { files, network, scopes }, bytes)
    }
}

/// Denies this thread, and all that it starts, every file and folder for good; open descriptors stay usable. `None`: the
/// kernel has no Landlock. This process must have given up new rights through exec.
///
/// # Errors
/// If the kernel refuses, or a folder can still be opened afterwards.
pub fn deny_files() -> io::Result<Option<i64>> {
    let nothing = std::ptr::null::<Denied>();
    // SAFETY: with this flag the call takes no attributes.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    if abi < 1 {
        return Ok(None);
    }
    let (denied, bytes) = Denied::all(abi);
    // SAFETY: the attributes are live, and at least as long as said.
    let ruleset = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const denied, bytes, 0u32) };
    let ruleset = i32::try_from(ruleset).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and owned by nobody else.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: a plain call on a live descriptor.
    if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match std::fs::File::open("/").map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EACCES)) => Ok(Some(abi)),
        _ => Err(io::Error::other("a folder can be opened although Landlock denies it")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;

    use super::*;

    #[test]
    fn what_a_version_knows_is_all_that_is_asked_of_it() {
        let known = |abi| {
            let (Denied { files, network, scopes }, bytes) = Denied::all(abi);
            (files, network, scopes, bytes)
        };
        assert_eq!(known(1), (0x1fff, 0, 0, 8));
        assert_eq!(known(3), (0x7fff, 0, 0, 8));
        assert_eq!(known(4), (0x7fff, 3, 0, 16));
        assert_eq!(known(5), (0xffff, 3, 0, 16));
        assert_eq!(known(7), (0xffff, 3, 3, 24));
    }

    /// In a thread of its own: the rest of the tests must keep their files.
    #[test]
    fn files_are_denied_and_open_descriptors_stay_usable() {
        let folder = std::env::temp_dir().join(format!("vector_boot-landlock-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, "text").unwrap();
        let mut open = File::open(&path).unwrap();
        let confined = std::thread::spawn({
            let (folder, path) = (folder.clone(), path.clone());
            move || {
                // SAFETY: a plain call, for this thread alone.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                deny_files().unwrap()?; // this kernel may have no Landlock
                let denied = |result: io::Result<()>| {
                    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
                };
                denied(File::open(&path).map(|_| ()));
                denied(File::open("/proc/self/exe").map(|_| ()));
                denied(File::create(folder.join("new")).map(|_| ()));
                denied(fs::read_dir(&folder).map(|_| ()));
                denied(fs::create_dir(folder.join("folder")));
                denied(fs::remove_file(&path));
                denied(fs::rename(&path, folder.join("renamed")));
                denied(std::os::unix::net::UnixListener::bind(folder.join("socket")).map(|_| ()));
                let mut text = String::new();
                open.read_to_string(&mut text).unwrap();
                Some(text)
            }
        });
        assert!(confined.join().unwrap().is_none_or(|text| text == "text"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
