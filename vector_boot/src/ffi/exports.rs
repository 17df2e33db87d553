//! The functions and types that C sees. `include/vector_boot.h` is made from this file by cbindgen.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use super::guard::{enter, last_error};
use super::{arguments, instance, start};
use crate::protocol::{BLOB_LIMIT, LINE_LIMIT};

/// One instruction (r is 250, g the opcode, b the immediate), or three bytes of data.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pixel {
    /// Red.
    pub r: u8,
    /// Green.
    pub g: u8,
    /// Blue.
    pub b: u8,
}

/// What neural_get_stats tells. Later versions only add members at the end.
#[repr(C)]
pub struct NeuralStats {
    /// Set by the caller: bytes of this struct. On return, how many of them were filled in.
    pub size: u32,
    /// Version of this struct: 1.
    pub version: u32,
    /// Pixels that programs have run, instructions and data.
    pub pixels_processed: u64,
    /// Programs that ran to their end.
    pub programs: u64,
    /// Neural interrupts taken.
    pub interrupts: u64,
    /// Generation of the weights.
    pub generation: u64,
    /// Mutations accepted.
    pub mutations_accepted: u64,
    /// Mutations refused.
    pub mutations_refused: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of tensors that differ from the model's file.
    pub changed_bytes: u64,
    /// Microseconds since the machine was loaded.
    pub uptime_us: u64,
}

/// A byte 0xFF, a line and a blob.
const MESSAGE_LIMIT: usize = 1 + LINE_LIMIT + BLOB_LIMIT;
const STATS_VERSION: u32 = 1;
/// A struct smaller than its two own members, or larger than this, was not set up.
const STATS_SIZES: std::ops::RangeInclusive<u32> = 8..=4096;

/// Loads the built-in tiny model unless a model is loaded. 1: a model is loaded; 0: error.
#[no_mangle]
pub extern "C" fn neural_init() -> i32 {
    enter(0, || {
        instance::load_if_none(|| start::alone(start::open(None)?))?;
        Ok(1)
    })
}

/// Loads a GGUF file or the model of an RTS image. The model loaded before, its changes included, is given up only if
/// the new one is good. 1: ok; 0: error.
///
/// # Safety
/// `path` is NULL or ends with a NUL.
#[no_mangle]
pub unsafe extern "C" fn neural_load(path: *const c_char) -> i32 {
    enter(0, || {
        // SAFETY: by the caller's word.
        let path = unsafe { arguments::text(path, "path") }?;
        instance::replace(|| start::alone(start::open(Some(&path))?))?;
        Ok(1)
    })
}

/// Loads a model (of the file `path`; NULL: the built-in one) into memory files that outlive this process. Whoever is
/// given the same three files and the same model goes on at the same generation, with the same bytes; one process at a
/// time. The files are fresh memfds that allow sealing; their sizes are set and sealed here. Each tensor lies in
/// `weights_fd` at the offset that neural_data_layout tells; `hw.mmio` and `cortex_journal` lie in `words_fd`, the first
/// at 0. The descriptors stay the caller's. 1: ok; 0: error.
///
/// # Safety
/// `path` is NULL or ends with a NUL; nobody else writes the files.
#[no_mangle]
pub unsafe extern "C" fn neural_load_shared(
    path: *const c_char,
    weights_fd: i32,
    journal_fd: i32,
    words_fd: i32,
) -> i32 {
    enter(0, || {
        let path = match path.is_null() {
            true => None,
            // SAFETY: by the caller's word.
            false => Some(unsafe { arguments::text(path, "path") }?),
        };
        let files = start::Files::duplicate(weights_fd, journal_fd, words_fd)?;
        instance::replace(|| start::shared(start::open(path.as_deref())?, files))?;
        Ok(1)
    })
}

/// Runs `n` pixels, at most 349525. 1: ok; 0: error, nothing has changed, and the message names the pixel.
///
/// # Safety
/// `p` is NULL or readable for `n` pixels.
#[no_mangle]
pub unsafe extern "C" fn neural_execute_pixels(p: *const Pixel, n: usize) -> i32 {
    enter(0, || {
        let limit = BLOB_LIMIT / size_of::<Pixel>();
        if n > limit {
            return Err(format!("{n} pixels are more than the {limit} there may be"));
        }
        arguments::place(p.cast_mut(), "p")?;
        // SAFETY: not null, readable by the caller's word.
        let pixels = unsafe { arguments::bytes(p.cast(), n * size_of::<Pixel>(), BLOB_LIMIT, "p") }?;
        instance::current()?.execute_pixels(pixels)?;
        Ok(1)
    })
}

/// What the last successful neural_execute_pixels of any thread made: `*len` bytes, to be given back with neural_free.
/// Not NULL when that was nothing; NULL: error, such as no program having run.
///
/// # Safety
/// `len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_get_result(len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(len, "len")?;
        // SAFETY: by the caller's word.
        unsafe { arguments::give(&instance::current()?.result()?, len) }
    })
}

/// Frees what neural_get_result, neural_data_layout or neural_request returned; NULL is fine.
///
/// # Safety
/// `p` is NULL or one of those, and not yet freed.
#[no_mangle]
pub unsafe extern "C" fn neural_free(p: *mut c_void) {
    // SAFETY: by the caller's word.
    unsafe { arguments::take_back(p) };
}

/// Gives up the model and all memory. Calls that are under way end in peace; neural_init works again afterwards.
#[no_mangle]
pub extern "C" fn neural_cleanup() {
    enter((), || {
        instance::clear();
        Ok(())
    });
}

/// Fills in as much of `s` as its `size` has room for. 1: ok; 0: error.
///
/// # Safety
/// `s` is NULL, or its `size` is set and so many bytes are writable.
#[no_mangle]
pub unsafe extern "C" fn neural_get_stats(s: *mut NeuralStats) -> i32 {
    enter(0, || {
        let s = arguments::place(s, "s")?;
        // SAFETY: not null, aligned, and the caller has set it.
        let room = unsafe { (&raw const (*s).size).read() };
        if !STATS_SIZES.contains(&room) {
            return Err(format!("s->size is {room}: set it to sizeof(NeuralStats)"));
        }
        let [pixels_processed, programs, interrupts, generation, mutations_accepted, mutations_refused, tensor_bytes, changed_bytes, uptime_us] =
            instance::current()?.numbers()?;
        let size = room.min(size_of::<NeuralStats>() as u32);
        let stats = NeuralStats {
            size,
            version: STATS_VERSION,
            pixels_processed,
            programs,
            interrupts,
            generation,
            mutations_accepted,
            mutations_refused,
            tensor_bytes,
            changed_bytes,
            uptime_us,
        };
        // SAFETY: `size` bytes are readable in our struct and writable in the caller's.
        unsafe { std::ptr::copy_nonoverlapping((&raw const stats).cast::<u8>(), s.cast(), size as usize) };
        Ok(1)
    })
}

/// All tensors as JSON, [{"name","type","shape","offset","bytes","protected"}], shape with the fastest dimension first;
/// to be given back with neural_free. Offsets are addresses in one space: the model's file (so a tensor of the model has
/// its offset there), the machine's own tensors behind it, and behind those the words of `hw.mmio` and `cortex_journal`.
/// NULL: error.
///
/// # Safety
/// `len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_data_layout(len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(len, "len")?;
        // SAFETY: by the caller's word.
        unsafe { arguments::give(&instance::current()?.layout()?, len) }
    })
}

/// The bytes of a tensor in its storage type, not to be written; valid until the next mutation, load or cleanup.
/// `hw.mmio` and `cortex_journal` change by themselves. NULL: error.
///
/// # Safety
/// `name` is NULL or ends with a NUL; `bytes` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_tensor(name: *const c_char, bytes: *mut usize) -> *const c_void {
    enter(std::ptr::null(), || {
        let bytes = arguments::place(bytes, "bytes")?;
        // SAFETY: by the caller's word.
        let (start, count) = instance::current()?.tensor(&unsafe { arguments::text(name, "name") }?)?;
        // SAFETY: not null, aligned, writable by the caller's word.
        unsafe { bytes.write(count) };
        Ok(start.cast())
    })
}

/// One message of the evolution protocol in (its line, newline included, and its blob), its reply out, to be given back
/// with neural_free. A byte 0xFF before it is answered with a greeting first. What is no message is answered as the
/// port would, with an error. NULL: there is no machine, or an argument is wrong.
///
/// # Safety
/// `msg` is NULL or readable for `n` bytes; `reply_len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_request(msg: *const u8, n: usize, reply_len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(reply_len, "reply_len")?;
        arguments::place(msg.cast_mut(), "msg")?;
        // SAFETY: by the caller's word.
        let message = unsafe { arguments::bytes(msg, n, MESSAGE_LIMIT, "msg") }?;
        // SAFETY: by the caller's word.
        unsafe { arguments::give(&instance::current()?.hear(&message), reply_len) }
    })
}

/// Raises a neural interrupt. 1: ok; 0: error.
#[no_mangle]
pub extern "C" fn neural_interrupt(vector: u8) -> i32 {
    enter(0, || {
        instance::current()?.interrupt(vector)?;
        Ok(1)
    })
}

/// Why the last failed call of this thread failed: a sentence, empty if none failed, never NULL; valid until the next
/// failure in this thread.
#[no_mangle]
pub extern "C" fn neural_last_error() -> *const c_char {
    last_error()
}
