//! Mappings: private ones of a model's file, and memory files that processes share.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use super::check;

/// Mapped bytes: of a private mapping, whose changes never reach the file, or of a memory file.
pub struct Mapping {
    start: *mut u8,
    len: usize,
    /// Bytes to unmap.
    mapped: usize,
}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: this value alone owns the mapping; `&self` gives read access only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a file from `offset`, a multiple of the page size. Pages cost memory once they are used. A page
    /// that was never written shows the file as it is now: a caller must make sure that the file stays the same.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn private(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(file.as_raw_fd(), offset, len, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
    }

    /// Maps pieces of a file (their offsets and lengths), which nobody sees change, one behind the other. Offsets are multiples
    /// of the page size, and so are the lengths of all pieces but the last.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn private_pieces(file: BorrowedFd<'_>, pieces: &[(u64, usize)]) -> io::Result<Self> {
        let whole = Self::zeroed(pieces.iter().map(|(_, len)| len).sum())?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
        let mut at = 0;
        for (offset, len) in pieces {
            assert!(at % PAGE == 0 && at + len <= whole.len);
            let offset = libc::off_t::try_from(*offset).map_err(io::Error::other)?;
            // SAFETY: it replaces pages of the mapping that `whole` owns, and no others: they begin inside it at a page, and
            // end with its last page at most. Nobody has a reference to its bytes yet.
            let start = unsafe {
                let target = whole.start.add(at).cast();
                libc::mmap(target, *len, protection, flags | libc::MAP_FIXED, file.as_raw_fd(), offset)
            };
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            at += len;
        }
        Ok(whole)
    }

    /// Maps `len` zero bytes; pages cost memory once they are written.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Self::map(-1, 0, len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
    }

    /// Maps zero bytes where the kernel can use a huge page for them, and has it get the memory at once.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn huge_page() -> io::Result<Self> {
        let mut whole = Self::zeroed(2 * HUGE_PAGE)?;
        let before = whole.start.align_offset(HUGE_PAGE).min(HUGE_PAGE);
        let mut found = whole.split_off(before);
        drop(found.split_off(HUGE_PAGE));
        found.populate();
        Ok(found)
    }

    /// Removes the bytes from `at`, a multiple of the page size, on, and returns them as a mapping of their own.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at.is_multiple_of(PAGE) && at <= self.len);
        // SAFETY: `at` lies in the mapping or at its end.
        let rest = Mapping { start: unsafe { self.start.add(at) }, len: self.len - at, mapped: self.mapped - at };
        (self.len, self.mapped) = (at, at);
        rest
    }

    /// Gets memory for all pages, as huge ones if possible; where it is impossible, nothing happens.
    fn populate(&mut self) {
        // SAFETY: the range is that of the mapping, which `&mut self` owns; contents stay as they are.
        unsafe {
            libc::madvise(self.start.cast(), self.len, libc::MADV_HUGEPAGE);
            libc::madvise(self.start.cast(), self.len, libc::MADV_POPULATE_WRITE);
        }
    }

    /// Maps `len` bytes of a memory file from `offset`, a multiple of the page size; every process that maps it sees the
    /// changes. The file must have been through [`claim`], and no other mapping may write it.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn shared(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(file.as_raw_fd(), offset, len, libc::MAP_SHARED | libc::MAP_NORESERVE)
    }

    fn map(fd: i32, offset: u64, len: usize, flags: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        #[cfg(feature = "planted")]
        if super::allocations::fails() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no other. A length of 0, which mmap refuses,
        // becomes 1.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len.max(1), protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start.cast(), len, mapped: len.max(1) })
    }

    /// The mapped bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start..start+len is mapped readable until drop, and only `&mut self` could write it.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The mapped bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.mapped > 0 {
            // SAFETY: unmaps what `map` mapped, or a part of it that no other value owns; no borrow outlives self.
            unsafe { libc::munmap(self.start.cast(), self.mapped) };
        }
    }
}

/// Makes an empty memory file that other processes can be given.
///
/// # Errors
/// Whatever memfd_create(2) says.
pub fn memory_file(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a NUL-terminated string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })?;
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a memory file that can grow, but neither shrink nor be executed, nor be given other seals: a process that reads it
/// is never cut off, and what one writes into it never becomes a program.
///
/// # Errors
/// Whatever memfd_create(2), fchmod(2) or fcntl(2) say.
pub fn growing_file(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let file = memory_file(name)?;
    deny_execution(file.as_fd())?;
    // SAFETY: a plain call on a live descriptor.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL) })?;
    Ok(file)
}

/// Has a memory file never be executed, for good where the kernel can seal that.
fn deny_execution(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain calls on a live descriptor. Before Linux 6.3 the second one fails, and the mode could be set again.
    unsafe {
        check(libc::fchmod(file.as_raw_fd(), 0o600))?;
        libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_EXEC);
    }
    Ok(())
}

/// The length of an open file. It makes one system call, `fstat`, whatever the C library: the worker's filter allows it by
/// number.
///
/// # Errors
/// Whatever fstat(2) says.
pub fn file_len(file: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: all zeros is a valid value.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is live, and has the layout that this system call fills; the descriptor is live.
    let result = unsafe { libc::syscall(libc::SYS_fstat, file.as_raw_fd(), &raw mut status) };
    check(result as libc::c_int)?;
    Ok(status.st_size)
}

/// Sets the length of an empty memory file and seals it; one that has a length already must have exactly this one.
///
/// # Errors
/// If it has another length or is not sealed, and whatever ftruncate(2) or fcntl(2) say.
pub fn claim(file: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let found = file_len(file)?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    if found == 0 && len != 0 {
        // SAFETY: plain calls on a live descriptor.
        unsafe {
            check(libc::ftruncate(file.as_raw_fd(), len))?;
            check(libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW))?;
        }
        return Ok(());
    }
    // SAFETY: plain call on a live descriptor.
    let seals = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) })?;
    if found != len || seals & libc::F_SEAL_SHRINK == 0 {
        let text = format!("{found} bytes instead of the {len} that this model needs, or is not sealed");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// What a file must be sealed against so that nobody can change it.
#[cfg(feature = "standalone")]
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;

/// Seals a memory file for good: nobody can change it any more. No writable mapping of it may exist.
///
/// # Errors
/// Whatever fcntl(2) says.
#[cfg(feature = "standalone")]
pub fn seal(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain call on a live descriptor.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) }).map(|_| ())
}

/// Whether a descriptor is that of a memory file that nobody can change.
#[cfg(feature = "standalone")]
pub fn is_sealed(file: BorrowedFd<'_>) -> bool {
    // SAFETY: a plain call on a live descriptor; it fails for anything but a memory file.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & SEALS == SEALS
}

/// Makes a memory file that holds these pieces one after another, and seals it.
///
/// # Errors
/// If there is no memory for it.
#[cfg(feature = "standalone")]
pub fn sealed_file(name: &std::ffi::CStr, pieces: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memory_file(name)?);
    for piece in pieces {
        io::Write::write_all(&mut file, piece)?;
    }
    seal(file.as_fd())?;
    Ok(file.into())
}

/// Makes another descriptor of an open file, closed on exec; `fd` stays the caller's.
///
/// # Errors
/// If `fd` is not an open descriptor.
#[cfg(feature = "ffi")]
pub fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain call, whatever the number; the new descriptor is owned by nobody else.
    unsafe { check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Has the allocator keep up to this many bytes that were freed, and allocations up to half of that share them: new pages take
/// the kernel longer than the copy of what is put there.
#[cfg(all(feature = "standalone", target_env = "gnu"))]
pub fn keep_freed(bytes: i32) {
    // SAFETY: plain calls; the allocator takes any values.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, bytes);
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes / 2);
    }
}

/// Releases the memory behind a range of a file; where that is impossible, nothing happens.
pub fn punch_hole(file: &std::fs::File, offset: u64, len: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    if let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) {
        // SAFETY: a plain call on a live descriptor.
        unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    }
}

/// Words shared between processes through a memfd.
pub struct SharedWords {
    start: *const AtomicU32,
    words: usize,
}

// SAFETY: all access goes through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Creates a memfd of `words` zero words that can neither grow nor shrink nor be executed, and maps it.
    ///
    /// # Errors
    /// Whatever memfd_create(2), ftruncate(2), fcntl(2) or mmap(2) say.
    pub fn create(name: &std::ffi::CStr, words: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memory_file(name)?;
        claim(fd.as_fd(), words * 4)?;
        deny_execution(fd.as_fd())?;
        // SAFETY: a plain call on a descriptor we own.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SEAL) })?;
        Ok((Self::attach(&fd, words)?, fd))
    }

    /// Maps the memfd that another process created with the same number of words.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn attach(fd: &OwnedFd, words: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping; its size is sealed, so no access can fault.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), words * 4, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(SharedWords { start: start.cast(), words })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: mapped, page-aligned, of sealed size; atomics may be shared between processes.
        unsafe { std::slice::from_raw_parts(self.start, self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: unmaps what `attach` mapped.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.words * 4) };
    }
}

#[cfg(all(test, feature = "standalone"))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_growing_file_neither_shrinks_nor_runs() {
        let mut file = File::from(growing_file(c"growing").unwrap());
        std::io::Write::write_all(&mut file, b"#!/bin/true\n").unwrap();
        assert!(file.set_len(1).is_err());
        file.set_len(4096).unwrap();
        punch_hole(&file, 0, 4096);
        let program = format!("/proc/self/fd/{}", file.as_raw_fd());
        let refused = std::process::Command::new(&program).status().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        // SAFETY: a plain call on a live descriptor.
        let seals = |file: BorrowedFd<'_>| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        let (words, fd) = SharedWords::create(c"words", 8).unwrap();
        drop(words);
        // Linux 6.3 and later seal that a file is not executable.
        let mode = seals(file.as_fd()) & libc::F_SEAL_EXEC;
        assert_eq!(file.set_permissions(executable).is_err(), mode != 0);
        assert_eq!(seals(file.as_fd()), libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL | mode);
        assert_eq!(seals(fd.as_fd()), libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL | mode);
    }

    #[test]
    fn a_sealed_file_cannot_change() {
        let file = sealed_file(c"sealed", &[b"ab", b"", b"c"]).unwrap();
        assert!(is_sealed(file.as_fd()));
        assert!(Mapping::shared(file.as_fd(), 0, 3).is_err());
        let file = File::from(file);
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abc");
        assert!(!is_sealed(memory_file(c"open").unwrap().as_fd()));
        assert!(!is_sealed(File::open("/dev/null").unwrap().as_fd()));
    }
}
