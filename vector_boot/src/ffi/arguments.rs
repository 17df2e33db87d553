//! Arguments from C, and results to C: every pointer is checked before it is used.
#![allow(unsafe_code)]

use std::ffi::{c_char, CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Longest path or name, in bytes without the terminator.
const TEXT_LIMIT: usize = 4095;

/// Checks a pointer to a `T` of the caller's: neither null nor misaligned.
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

/// The caller's bytes, where they are.
///
/// # Safety
/// A pointer that is not null must be readable for `count` bytes, which nobody writes while the result is in use.
///
/// # Errors
/// If it is null, or there are more than `limit`.
pub unsafe fn bytes<'a>(pointer: *const u8, count: usize, limit: usize, what: &str) -> Result<&'a [u8], String> {
    if count > limit {
        return Err(format!("{what} has {count} bytes, more than the limit of {limit}"));
    }
    if count == 0 {
        return Ok(&[]);
    }
    let start = place(pointer.cast_mut(), what)?;
    // SAFETY: not null, readable for `count` bytes as demanded above, and the limit is far below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// The caller's text, copied.
///
/// # Safety
/// A pointer that is not null must lead to a NUL, or be readable for 4096 bytes.
///
/// # Errors
/// If it is null, too long or not UTF-8.
pub unsafe fn text(pointer: *const c_char, what: &str) -> Result<String, String> {
    // SAFETY: the caller keeps the promise about the pointer.
    let text = unsafe { c_string(pointer, what) }?;
    text.to_str().map(ToString::to_string).map_err(|_| format!("{what} is not UTF-8"))
}

/// The caller's file name, copied; it may hold any byte but NUL.
///
/// # Safety
/// A pointer that is not null must lead to a NUL, or be readable for 4096 bytes.
///
/// # Errors
/// If it is null or too long.
pub unsafe fn path(pointer: *const c_char, what: &str) -> Result<PathBuf, String> {
    // SAFETY: the caller keeps the promise about the pointer.
    let text = unsafe { c_string(pointer, what) }?;
    Ok(PathBuf::from(OsStr::from_bytes(text.to_bytes())))
}

/// The caller's bytes up to the NUL.
///
/// # Safety
/// A pointer that is not null must lead to a NUL, or be readable for 4096 bytes, while the result is in use.
unsafe fn c_string<'a>(pointer: *const c_char, what: &str) -> Result<&'a CStr, String> {
    let start = place(pointer.cast_mut(), what)?;
    // SAFETY: reads up to the NUL or the limit, both of which are readable as demanded above.
    if unsafe { libc::strnlen(start, TEXT_LIMIT + 1) } > TEXT_LIMIT {
        return Err(format!("{what} is longer than {TEXT_LIMIT} bytes"));
    }
    // SAFETY: a NUL was just found.
    Ok(unsafe { CStr::from_ptr(start) })
}

/// Copies bytes to new memory for the caller, to be freed by [`take_back`]; not null even without bytes.
///
/// # Safety
/// A `len` that is not null must be writable.
///
/// # Errors
/// If `len` is null or misaligned, or memory runs out.
pub unsafe fn give(bytes: &[u8], len: *mut usize) -> Result<*mut u8, String> {
    let len = place(len, "the pointer to the length")?;
    // SAFETY: a plain allocation.
    let memory: *mut u8 = unsafe { libc::malloc(bytes.len().max(1)) }.cast();
    if memory.is_null() {
        return Err(format!("no memory for {} bytes", bytes.len()));
    }
    // SAFETY: `memory` is new and has this size; `len` is writable as demanded above.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
        len.write(bytes.len());
    }
    Ok(memory)
}

/// Frees what [`give`] returned.
///
/// # Safety
/// `memory` is null, or came from [`give`] and is not yet freed.
pub unsafe fn take_back(memory: *mut libc::c_void) {
    // SAFETY: null, or allocated by `malloc` in `give`, as demanded above.
    unsafe { libc::free(memory) };
}
