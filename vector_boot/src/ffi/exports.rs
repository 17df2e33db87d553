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

/// The counts that neural_get_stats returns. Later versions only add members at the end.
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

/// The longest message: a byte 0xFF, a line and a blob.
const MESSAGE_LIMIT: usize = 1 + LINE_LIMIT + BLOB_LIMIT;
const STATS_VERSION: u32 = 1;
/// Sizes that a caller can have set: at least the first two members, and no random number.
const STATS_SIZES: std::ops::RangeInclusive<u32> = 8..=4096;

/// Loads the built-in tiny model unless a model is loaded. 1: a model is loaded; 0: error.
#[no_mangle]
pub extern "C" fn neural_init() -> i32 {
    enter(0, || {
        instance::load_if_none(|| start::alone(start::open(None)?))?;
        Ok(1)
    })
}

/// Loads a GGUF file, or the model of an RTS image (a container with an executable and a model). It replaces the loaded
/// model, changes included, unless it is refused. The file must not be changed while it is loaded. 1: ok; 0: error.
///
/// # Safety
/// `path` is NULL or ends with a NUL.
#[no_mangle]
pub unsafe extern "C" fn neural_load(path: *const c_char) -> i32 {
    enter(0, || {
        // SAFETY: as this function's safety section demands.
        let path = unsafe { arguments::path(path, "path") }?;
        instance::replace(|| start::alone(start::open(Some(&path))?))?;
        Ok(1)
    })
}

/// Loads a model (the file `path`; NULL: the built-in one) into memory files that outlive this process. A process that
/// is given the same three files and the same model continues at the same generation, with the same bytes; only one
/// process may use them at a time. The files are new memfds that allow sealing; their sizes are set and sealed here.
/// Each tensor is in `weights_fd` at the offset that neural_data_layout returns; `hw.mmio` and `cortex_journal` are in
/// `words_fd`, the first at 0. The caller keeps its descriptors. 1: ok; 0: error.
///
/// # Safety
/// `path` is NULL or ends with a NUL; no one else writes the files.
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
            // SAFETY: as this function's safety section demands.
            false => Some(unsafe { arguments::path(path, "path") }?),
        };
        let files = start::Files::duplicate(weights_fd, journal_fd, words_fd)?;
        instance::replace(|| start::shared(start::open(path.as_deref())?, files))?;
        Ok(1)
    })
}

/// Runs `n` pixels, at most 349525. 1: ok; 0: error, nothing has changed, and the message names the pixel.
///
/// # Safety
/// `p` is NULL or readable for `n` pixels, which nobody writes during the call.
#[no_mangle]
pub unsafe extern "C" fn neural_execute_pixels(p: *const Pixel, n: usize) -> i32 {
    enter(0, || {
        let limit = BLOB_LIMIT / size_of::<Pixel>();
        if n > limit {
            return Err(format!("{n} pixels, more than the limit of {limit}"));
        }
        arguments::place(p.cast_mut(), "p")?;
        // SAFETY: not null, and readable as this function's safety section demands.
        let pixels = unsafe { arguments::bytes(p.cast(), n * size_of::<Pixel>(), BLOB_LIMIT, "p") }?;
        instance::current()?.execute_pixels(pixels.to_vec())?;
        Ok(1)
    })
}

/// The output of the last successful neural_execute_pixels of any thread: `*len` bytes, to be freed with neural_free.
/// An empty output is not NULL; NULL: error, for example because no program has run.
///
/// # Safety
/// `len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_get_result(len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(len, "len")?;
        // SAFETY: as this function's safety section demands.
        unsafe { arguments::give(&instance::current()?.result()?, len) }
    })
}

/// Frees what neural_get_result, neural_data_layout or neural_request returned; NULL is ignored.
///
/// # Safety
/// `p` is NULL or one of those, and not yet freed.
#[no_mangle]
pub unsafe extern "C" fn neural_free(p: *mut c_void) {
    // SAFETY: as this function's safety section demands.
    unsafe { arguments::take_back(p) };
}

/// Unloads the model and frees its memory once calls that are running have returned. neural_init works again
/// afterwards. In a forked process it does nothing.
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
        // SAFETY: not null, aligned, and set as this function's safety section demands.
        let room = unsafe { (&raw const (*s).size).read() };
        if !STATS_SIZES.contains(&room) {
            return Err(format!("s->size is {room}: set it to sizeof(NeuralStats)"));
        }
        let counts = instance::current()?.counts()?;
        let size = room.min(size_of::<NeuralStats>() as u32);
        let stats = NeuralStats {
            size,
            version: STATS_VERSION,
            pixels_processed: counts.pixels_processed,
            programs: counts.programs,
            interrupts: counts.interrupts,
            generation: counts.generation,
            mutations_accepted: counts.mutations_accepted,
            mutations_refused: counts.mutations_refused,
            tensor_bytes: counts.tensor_bytes,
            changed_bytes: counts.changed_bytes,
            uptime_us: counts.uptime_us,
        };
        // SAFETY: `size` bytes are readable in our struct and writable in the caller's.
        unsafe { std::ptr::copy_nonoverlapping((&raw const stats).cast::<u8>(), s.cast(), size as usize) };
        Ok(1)
    })
}

/// All tensors as JSON, [{"name","type","shape","offset","bytes","protected"}], shape with the fastest dimension
/// first; to be freed with neural_free. Offsets are addresses in one space: the model's file (so a tensor of the model
/// has its offset in the file), after it the machine's own tensors, and after those the words of `hw.mmio` and
/// `cortex_journal`. NULL: error.
///
/// # Safety
/// `len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_data_layout(len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(len, "len")?;
        // SAFETY: as this function's safety section demands.
        unsafe { arguments::give(&instance::current()?.layout()?, len) }
    })
}

/// The bytes of a tensor in its storage type, read-only; valid until the next mutation, load or cleanup. `hw.mmio` and
/// `cortex_journal` change at any time. NULL: error.
///
/// # Safety
/// `name` is NULL or ends with a NUL; `bytes` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_tensor(name: *const c_char, bytes: *mut usize) -> *const c_void {
    enter(std::ptr::null(), || {
        let bytes = arguments::place(bytes, "bytes")?;
        // SAFETY: as this function's safety section demands.
        let (start, count) = instance::current()?.tensor(&unsafe { arguments::text(name, "name") }?)?;
        // SAFETY: not null, aligned, and writable as this function's safety section demands.
        unsafe { bytes.write(count) };
        Ok(start.cast())
    })
}

/// Handles one message of the evolution protocol (its line with the newline, and its blob) and returns the reply, to be
/// freed with neural_free. A byte 0xFF before it is answered with a greeting first. Bytes that are not a message are
/// answered with an error, as on the port. NULL: no model is loaded, or an argument is not valid.
///
/// The machine keeps memory as large as the largest blob of a message so far, at most 1 MiB, for the next one, until it is
/// replaced or cleaned up. The message must not lie in what neural_tensor returned: a change that another thread makes
/// would write it during the call. Copy such bytes first.
///
/// # Safety
/// `msg` is NULL or readable for `n` bytes, which nobody writes during the call; `reply_len` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn neural_request(msg: *const u8, n: usize, reply_len: *mut usize) -> *mut u8 {
    enter(std::ptr::null_mut(), || {
        arguments::place(reply_len, "reply_len")?;
        arguments::place(msg.cast_mut(), "msg")?;
        // SAFETY: as this function's safety section demands.
        let message = unsafe { arguments::bytes(msg, n, MESSAGE_LIMIT, "msg") }?;
        // SAFETY: as this function's safety section demands.
        unsafe { arguments::give(&instance::current()?.handle(message), reply_len) }
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
/// failed call of this thread.
#[no_mangle]
pub extern "C" fn neural_last_error() -> *const c_char {
    last_error()
}
