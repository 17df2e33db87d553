"""Common code of the peers' drivers, run by the peers' own Python.

A driver is run as `DRIVER MODEL OUTPUT THREADS [VOCABULARY.gguf]` and works like vector_boot/examples/embed.rs: each
line of stdin is a JSON array of texts, every text an array of token ids or (with a tokenizer) a string. OUTPUT gets all
embeddings, float32, when stdin ends; stdout gets a line for each batch: the nanoseconds of the pass, those from the
start of the process until the runtime was imported, and the bytes of anonymous memory held by then.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prepare = Callable[[list[Any]], Callable[[], Any]]
"""Takes a batch, prepares it (not timed), and returns the pass, which gives embeddings, float32 [texts, width]."""

_TICKS = os.sysconf("SC_CLK_TCK")


def serve(runtime: str, load: Callable[[Any, list[str]], Prepare]) -> None:
    """Answer batches until stdin ends; `load` opens the model, given the imported `runtime` and the arguments."""
    module = importlib.import_module(runtime)
    python = f"{_age_ns()} {anonymous_bytes()}"
    output = Path(sys.argv[2])
    prepare = load(module, sys.argv[1:])
    embeddings = []
    for line in sys.stdin:
        run = prepare(json.loads(line))
        start = time.perf_counter_ns()
        result = run()
        print(time.perf_counter_ns() - start, python, flush=True)
        embeddings.append(result.tobytes())
    output.write_bytes(b"".join(embeddings))


def anonymous_bytes(process: str = "self") -> int:
    """The anonymous memory of a process."""
    return memory_bytes("RssAnon", process)


def memory_bytes(field: str, process: str = "self") -> int:
    """A field of /proc/PROCESS/status that is a size."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _age_ns() -> int:
    """Nanoseconds since this process was started, to a tick of the kernel's (10 ms)."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started * 1_000_000_000 // _TICKS
