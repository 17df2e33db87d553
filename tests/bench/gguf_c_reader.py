"""ggml's own GGUF reader as a timed child: `python -m tests.bench.gguf_c_reader LIBGGML_BASE`."""

from __future__ import annotations

import ctypes
import os
import sys
import time


class InitParams(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h: without a context for tensors, only the head is read and checked."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def main() -> None:
    """Answer each path on stdin with `NANOSECONDS TENSORS` for opening, checking and freeing it."""
    library = ctypes.CDLL(sys.argv[1])
    open_file, tensor_count, free = library.gguf_init_from_file, library.gguf_get_n_tensors, library.gguf_free
    open_file.argtypes, open_file.restype = [ctypes.c_char_p, InitParams], ctypes.c_void_p
    tensor_count.argtypes, tensor_count.restype = [ctypes.c_void_p], ctypes.c_int64
    free.argtypes, free.restype = [ctypes.c_void_p], None
    params = InitParams(True, None)
    for line in sys.stdin:
        path = os.fsencode(line.rstrip("\n"))
        start = time.perf_counter_ns()
        file = open_file(path, params)
        if not file:
            sys.exit("gguf_init_from_file refused the file")
        tensors = tensor_count(file)
        free(file)
        print(time.perf_counter_ns() - start, tensors, flush=True)


if __name__ == "__main__":
    main()
