//! Where every call enters and leaves: panics stop here, errors are kept for the calling thread, and processes forked from
//! the one that uses the library are refused.

use std::cell::RefCell;
use std::ffi::{c_char, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    /// Why this thread's last failed call failed.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// The process that made the first call, 0 before it. It is never reset: another thread of that process may hold one of
/// the library's locks at the moment of a fork, and in the child nobody would release it.
static OWNER: AtomicU32 = AtomicU32::new(0);

const NOTHING: &CStr = c"";

/// Runs a call; if it fails, the reason is kept for [`last_error`] and the caller gets `failed`.
pub fn enter<T>(failed: T, call: impl FnOnce() -> Result<T, String>) -> T {
    // A panic leaves nothing half done: changes are transactions, and poisoned locks are still used.
    let guarded = || require_owner().and_then(|()| call());
    let outcome = catch_unwind(AssertUnwindSafe(guarded)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(format!("a bug in vector_boot: {text}; report it"))
    });
    outcome.unwrap_or_else(|why| {
        remember(why);
        failed
    })
}

/// Refuses a process that was forked from the owner: it shares the journal and the machine's words with it, and has none
/// of its threads.
fn require_owner() -> Result<(), String> {
    let own = std::process::id();
    match OWNER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != own => Err(format!(
            "process {own} was forked from process {owner}, which uses this library: a forked process must call exec first"
        )),
        _ => Ok(()),
    }
}

fn remember(why: String) {
    let mut bytes = why.into_bytes();
    bytes.retain(|byte| *byte != 0);
    let text = CString::new(bytes).unwrap_or_default();
    // A thread that is ending has no storage for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// Why this thread's last failed call failed, empty if none did. The next failure replaces it.
pub fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(NOTHING.as_ptr())
}
