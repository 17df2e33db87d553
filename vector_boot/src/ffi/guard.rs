//! Where every call enters and leaves: no panic passes, and failures are told to the thread that caused them.

use std::cell::RefCell;
use std::ffi::{c_char, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

thread_local! {
    /// Why this thread's last failed call failed.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

const NOTHING: &CStr = c"";

/// Runs a call; on failure the reason is kept for [`last_error`] and the caller gets `failed`.
pub fn enter<T>(failed: T, call: impl FnOnce() -> Result<T, String>) -> T {
    // A panic leaves nothing half done: changes are transactions, and locks are taken over when poisoned.
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(format!("a bug in vector_boot: {text}; report it"))
    });
    outcome.unwrap_or_else(|why| {
        remember(why);
        failed
    })
}

fn remember(why: String) {
    let mut bytes = why.into_bytes();
    bytes.retain(|byte| *byte != 0);
    let text = CString::new(bytes).unwrap_or_default();
    // A thread that is ending has no place for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// Why this thread's last failed call failed, empty if none did. The next failure replaces it.
pub fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(NOTHING.as_ptr())
}
