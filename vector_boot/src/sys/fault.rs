//! Real faults, on request: the tests kill the worker with them.

/// Writes to address 0.
pub fn segv() {
    // SAFETY: none; the fault is the purpose. The kernel ends the process before anything is corrupted.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
}
