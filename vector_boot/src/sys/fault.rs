//! Real faults, on request: the tests kill the worker with them.

use super::sandbox;

/// Writes to address 0.
pub fn segv() {
    // SAFETY: none; the fault is the purpose. The kernel ends the process before anything is corrupted.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
}

/// Takes memory until there is none: the appliance's, or on a workstation no more than 256 MiB.
pub fn exhaust_memory(whole_machine: bool) {
    if !whole_machine {
        sandbox::limit_address_space(256 << 20);
    }
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1u8; 1 << 20]); // not zero: the pages are touched
    }
}
