//! An allocator that counts what a thread asks for, and fails when it is told to: for crash tests, never in a release. New
//! mappings are counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// An allocation that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// How many succeed before.
    pub after: u64,
    /// Whether all later ones fail too.
    pub for_ever: bool,
}

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static FAILURES: Cell<u64> = const { Cell::new(0) };
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// From now on, this allocation of the calling thread fails. Its counts begin with 0.
pub fn fail(fault: Option<Fault>) {
    FAULT.set(fault);
    COUNT.set(0);
    FAILURES.set(0);
}

/// Carries out work whose allocations are counted, and may fail.
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    with(true, work)
}

/// Carries out work, inside of counted work, whose allocations are not counted.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    with(false, work)
}

fn with<T>(is_counted: bool, work: impl FnOnce() -> T) -> T {
    let before = IS_COUNTED.replace(is_counted);
    let result = work();
    IS_COUNTED.set(before);
    result
}

/// Number of allocations that were counted.
pub fn count() -> u64 {
    COUNT.get()
}

/// Number of allocations that failed.
pub fn failures() -> u64 {
    FAILURES.get()
}

/// Counts an allocation. Whether it fails.
pub(super) fn fails() -> bool {
    if !IS_COUNTED.get() {
        return false;
    }
    let number = COUNT.replace(COUNT.get() + 1);
    let hit = |fault: Fault| number == fault.after || (fault.for_ever && number > fault.after);
    let fails = FAULT.get().is_some_and(hit);
    FAILURES.set(FAILURES.get() + u64::from(fails));
    fails
}

/// The allocator of the system, but for the allocations that fail.
pub struct FailingAllocator;

// SAFETY: every call is passed on to the allocator of the system, or gives null, which says that there is no memory. The
// values of the thread have no destructor and begin as constants, so using them allocates nothing.
unsafe impl GlobalAlloc for FailingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: as above; `old` came from the allocator of the system.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}
