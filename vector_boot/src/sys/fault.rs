//! Real faults, made on request: tests kill the worker with them.

use super::sandbox;

/// Writes to address 0.
pub fn segv() {
    // SAFETY: the fault is the purpose; the kernel ends the process before anything is written.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
}

/// Makes the system call with this number, all its arguments 0.
pub fn call(number: u64) {
    // SAFETY: none, for a number that the filter does not kill: the purpose is to see that it kills. With arguments of 0 no
    // call that it allows writes to memory of this process.
    unsafe { libc::syscall(number as libc::c_long, 0, 0, 0, 0, 0, 0) };
}

/// Allocates memory until none is left: all of the appliance's, or 256 MiB on a workstation.
pub fn exhaust_memory(whole_machine: bool) {
    if !whole_machine {
        sandbox::limit_address_space(256 << 20);
    }
    let mut allocated = Vec::new();
    loop {
        allocated.push(vec![1u8; 1 << 20]); // not zero, so that the pages are written
    }
}
