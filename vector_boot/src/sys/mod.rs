//! The only door to the kernel: thin wrappers, each `unsafe` block with the reason why it is sound.
#![allow(unsafe_code)]

pub mod memory;

#[cfg(feature = "standalone")]
pub mod fault;
#[cfg(feature = "standalone")]
pub mod message;
#[cfg(feature = "standalone")]
pub mod power;
#[cfg(feature = "standalone")]
pub mod process;
#[cfg(feature = "standalone")]
pub mod ready;
#[cfg(feature = "standalone")]
pub mod sandbox;
#[cfg(feature = "standalone")]
pub mod signal;

use std::io;

/// Turns a syscall's -1 into the error it stands for.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Bytes of memory this machine has; 0 if the kernel does not tell.
pub fn total_memory() -> u64 {
    // SAFETY: all zeros is a valid value, and the call fills it.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is live.
    match unsafe { libc::sysinfo(&mut info) } {
        0 => info.totalram.saturating_mul(u64::from(info.mem_unit)),
        _ => 0,
    }
}

/// Microseconds of the monotonic clock, the same in every process.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}
