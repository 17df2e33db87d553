//! System calls: thin wrappers, each `unsafe` block with the reason why it is sound.
#![allow(unsafe_code)]

#[cfg(feature = "planted")]
pub mod allocations;
#[cfg(feature = "standalone")]
pub mod cache;
pub mod memory;

#[cfg(feature = "standalone")]
pub mod device_mapper;
#[cfg(feature = "standalone")]
pub mod fault;
#[cfg(feature = "standalone")]
pub mod landlock;
#[cfg(feature = "standalone")]
pub mod limits;
#[cfg(feature = "standalone")]
pub mod local_socket;
#[cfg(feature = "standalone")]
pub mod message;
#[cfg(feature = "standalone")]
pub mod power;
#[cfg(feature = "standalone")]
pub mod process;
#[cfg(feature = "standalone")]
pub mod range_lock;
#[cfg(feature = "standalone")]
pub mod ready;
#[cfg(feature = "standalone")]
pub mod sandbox;
#[cfg(feature = "standalone")]
pub mod signal;
#[cfg(feature = "standalone")]
pub mod watch;

use std::io;
#[cfg(feature = "ffi")]
use std::path::PathBuf;

/// The file that this code was loaded from: the library, or the program it is linked into.
#[cfg(feature = "ffi")]
pub fn own_file() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;

    // SAFETY: all zeros is a valid value.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here: fn() -> Option<PathBuf> = own_file;
    // SAFETY: `found` is live; the address is one of this code's own.
    if unsafe { libc::dladdr(here as *const libc::c_void, &mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader keeps this string as long as the code is loaded, which it is: it runs.
    let name = unsafe { std::ffi::CStr::from_ptr(found.dli_fname) };
    Some(std::ffi::OsStr::from_bytes(name.to_bytes()).into())
}

/// Turns a negative result of a system call into the error that errno names.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Bytes of memory of this computer; 0 if the kernel does not say.
pub fn total_memory() -> u64 {
    // SAFETY: all zeros is a valid value, and the call fills it.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is live.
    match unsafe { libc::sysinfo(&mut info) } {
        0 => info.totalram.saturating_mul(u64::from(info.mem_unit)),
        _ => 0,
    }
}

/// Bytes of memory that are free or hold buffers, a lower bound of what is available; 0 if the kernel does not say.
pub fn available_memory() -> u64 {
    // SAFETY: all zeros is a valid value, and the call fills it.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is live.
    match unsafe { libc::sysinfo(&mut info) } {
        0 => info.freeram.saturating_add(info.bufferram).saturating_mul(u64::from(info.mem_unit)),
        _ => 0,
    }
}

/// Bytes that nobody can predict. Early in a boot it waits until the kernel has some.
///
/// # Errors
/// Whatever getrandom(2) says.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        // SAFETY: the pointer and length are those of the part of a live, exclusive array.
        let got = unsafe { libc::getrandom(bytes[filled..].as_mut_ptr().cast(), N - filled, 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => (),
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(bytes)
}

/// Microseconds of the monotonic clock, which all processes share.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}
