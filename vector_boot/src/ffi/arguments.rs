//! What comes from C, and what goes there: every pointer is judged before it is used.
#![allow(unsafe_code)]

use std::ffi::{c_char, CStr};

/// Longest path or name, in bytes without the terminator.
const TEXT_LIMIT: usize = 4095;

/// A place for one `T` of the caller's. Refuses null and misaligned pointers.
///
/// # Errors
/// One sentence that names the argument.
pub fn place<T>(pointer: *mut T, what: &str) -> Result<*mut T, String> {
    if pointer.is_null() {
        return Err(format!("{what} is NULL"));
    }
    if !pointer.is_aligned() {
        return Err(format!("{what} is not aligned to {} bytes", align_of::<T>()));
    }
    Ok(pointer)
}

/// The caller's bytes, copied.
///
/// # Safety
/// A pointer that is not null must be readable for `count` bytes.
///
/// # Errors
/// If it is null, or there are more than `limit`.
pub unsafe fn bytes(pointer: *const u8, count: usize, limit: usize, what: &str) -> Result<Vec<u8>, String> {
    if count > limit {
        return Err(format!("{what} has {count} bytes, more than the {limit} there may be"));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let start = place(pointer.cast_mut(), what)?;
    // SAFETY: not null, readable for `count` bytes by the caller's word, and the limit is far below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(start, count) }.to_vec())
}

/// The caller's text, copied.
///
/// # Safety
/// A pointer that is not null must lead to a NUL, or be readable for 4096 bytes.
///
/// # Errors
/// If it is null, too long or no UTF-8.
pub unsafe fn text(pointer: *const c_char, what: &str) -> Result<String, String> {
    let start = place(pointer.cast_mut(), what)?;
    // SAFETY: reads up to the NUL, or up to the limit.
    if unsafe { libc::strnlen(start, TEXT_LIMIT + 1) } > TEXT_LIMIT {
        return Err(format!("{what} is longer than {TEXT_LIMIT} bytes"));
    }
    // SAFETY: a NUL was just found.
    let text = unsafe { CStr::from_ptr(start) };
    text.to_str().map(ToString::to_string).map_err(|_| format!("{what} is not UTF-8"))
}

/// Gives bytes to the caller in memory of their own, to be freed by [`take_back`]; never null, even for none.
///
/// # Safety
/// A `len` that is not null must be writable.
///
/// # Errors
/// If `len` is null or misaligned, or memory is short.
pub unsafe fn give(bytes: &[u8], len: *mut usize) -> Result<*mut u8, String> {
    let len = place(len, "the place for the length")?;
    // SAFETY: a plain allocation.
    let memory: *mut u8 = unsafe { libc::malloc(bytes.len().max(1)) }.cast();
    if memory.is_null() {
        return Err(format!("there is no memory for {} bytes", bytes.len()));
    }
    // SAFETY: `memory` is fresh and has this size; `len` is writable by the caller's word.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
        len.write(bytes.len());
    }
    Ok(memory)
}

/// Frees what [`give`] gave.
///
/// # Safety
/// `memory` is null, or was given and not yet taken back.
pub unsafe fn take_back(memory: *mut libc::c_void) {
    // SAFETY: by the caller's word it is one of our allocations, or null.
    unsafe { libc::free(memory) };
}
