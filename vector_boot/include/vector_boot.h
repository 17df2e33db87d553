// The C interface of vector_boot: a GGUF model that runs as a machine inside your program.
//
// A process has one machine. Every function may be called from any thread at any time. Functions that fail return 0 or
// NULL, and neural_last_error says why.
//
// Fork: once a process has called a function of this library, the processes forked from it can no longer use it. There
// every function but neural_free and neural_last_error fails without touching the parent's machine, until exec.

#ifndef VECTOR_BOOT_H
#define VECTOR_BOOT_H

// Made by cbindgen from vector_boot/src/ffi/exports.rs: change that, not this.

#include <stddef.h>
#include <stdint.h>

// One instruction (r is 250, g the opcode, b the immediate), or three bytes of data.
typedef struct {
  // Red.
  uint8_t r;
  // Green.
  uint8_t g;
  // Blue.
  uint8_t b;
} Pixel;

// The counts that neural_get_stats returns. Later versions only add members at the end.
typedef struct {
  // Set by the caller: bytes of this struct. On return, how many of them were filled in.
  uint32_t size;
  // Version of this struct: 1.
  uint32_t version;
  // Pixels that programs have run, instructions and data.
  uint64_t pixels_processed;
  // Programs that ran to their end.
  uint64_t programs;
  // Neural interrupts taken.
  uint64_t interrupts;
  // Generation of the weights.
  uint64_t generation;
  // Mutations accepted.
  uint64_t mutations_accepted;
  // Mutations refused.
  uint64_t mutations_refused;
  // Bytes of all tensors.
  uint64_t tensor_bytes;
  // Bytes of tensors that differ from the model's file.
  uint64_t changed_bytes;
  // Microseconds since the machine was loaded.
  uint64_t uptime_us;
} NeuralStats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Loads the built-in tiny model unless a model is loaded. 1: a model is loaded; 0: error.
int32_t neural_init(void);

// Loads a GGUF file, or the model of an RTS image (a container with an executable and a model). It replaces the loaded
// model, changes included, unless it is refused. The file must not be changed while it is loaded. 1: ok; 0: error.
//
// # Safety
// `path` is NULL or ends with a NUL.
int32_t neural_load(const char *path);

// Loads a model (the file `path`; NULL: the built-in one) into memory files that outlive this process. A process that
// is given the same three files and the same model continues at the same generation, with the same bytes; only one
// process may use them at a time. The files are new memfds that allow sealing; their sizes are set and sealed here.
// Each tensor is in `weights_fd` at the offset that neural_data_layout returns; `hw.mmio` and `cortex_journal` are in
// `words_fd`, the first at 0. The caller keeps its descriptors. 1: ok; 0: error.
//
// # Safety
// `path` is NULL or ends with a NUL; no one else writes the files.
int32_t neural_load_shared(const char *path, int32_t weights_fd, int32_t journal_fd, int32_t words_fd);

// Runs `n` pixels, at most 349525. 1: ok; 0: error, nothing has changed, and the message names the pixel.
//
// # Safety
// `p` is NULL or readable for `n` pixels, which nobody writes during the call.
int32_t neural_execute_pixels(const Pixel *p, size_t n);

// The output of the last successful neural_execute_pixels of any thread: `*len` bytes, to be freed with neural_free.
// An empty output is not NULL; NULL: error, for example because no program has run.
//
// # Safety
// `len` is NULL or writable.
uint8_t *neural_get_result(size_t *len);

// Frees what neural_get_result, neural_data_layout or neural_request returned; NULL is ignored.
//
// # Safety
// `p` is NULL or one of those, and not yet freed.
void neural_free(void *p);

// Unloads the model and frees its memory once calls that are running have returned. neural_init works again
// afterwards. In a forked process it does nothing.
void neural_cleanup(void);

// Fills in as much of `s` as its `size` has room for. 1: ok; 0: error.
//
// # Safety
// `s` is NULL, or its `size` is set and so many bytes are writable.
int32_t neural_get_stats(NeuralStats *s);

// All tensors as JSON, [{"name","type","shape","offset","bytes","protected"}], shape with the fastest dimension
// first; to be freed with neural_free. Offsets are addresses in one space: the model's file (so a tensor of the model
// has its offset in the file), after it the machine's own tensors, and after those the words of `hw.mmio` and
// `cortex_journal`. NULL: error.
//
// # Safety
// `len` is NULL or writable.
uint8_t *neural_data_layout(size_t *len);

// The bytes of a tensor in its storage type, read-only; valid until the next mutation, load or cleanup. `hw.mmio` and
// `cortex_journal` change at any time. NULL: error.
//
// # Safety
// `name` is NULL or ends with a NUL; `bytes` is NULL or writable.
const void *neural_tensor(const char *name, size_t *bytes);

// Handles one message of the evolution protocol (its line with the newline, and its blob) and returns the reply, to be
// freed with neural_free. A byte 0xFF before it is answered with a greeting first. Bytes that are not a message are
// answered with an error, as on the port. NULL: no model is loaded, or an argument is not valid.
//
// The machine keeps memory as large as the largest blob of a message so far, at most 1 MiB, for the next one, until it is
// replaced or cleaned up. The message must not lie in what neural_tensor returned: a change that another thread makes
// would write it during the call. Copy such bytes first.
//
// # Safety
// `msg` is NULL or readable for `n` bytes, which nobody writes during the call; `reply_len` is NULL or writable.
uint8_t *neural_request(const uint8_t *msg, size_t n, size_t *reply_len);

// Raises a neural interrupt. 1: ok; 0: error.
int32_t neural_interrupt(uint8_t vector);

// Why the last failed call of this thread failed: a sentence, empty if none failed, never NULL; valid until the next
// failed call of this thread.
const char *neural_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VECTOR_BOOT_H */
