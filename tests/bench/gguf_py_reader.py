"""The `gguf` package's reader as a timed child: `python -m tests.bench.gguf_py_reader`."""

from __future__ import annotations

import sys
import time

from gguf import GGUFReader


def main() -> None:
    """Answer each path on stdin with `NANOSECONDS TENSORS` for opening, reading and closing it."""
    for line in sys.stdin:
        path = line.rstrip("\n")
        start = time.perf_counter_ns()
        reader = GGUFReader(path)
        tensors = len(reader.tensors)
        del reader
        print(time.perf_counter_ns() - start, tensors, flush=True)


if __name__ == "__main__":
    main()
