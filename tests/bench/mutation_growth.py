"""The cost of more tensors and a longer journal: a small mutation, and the first reply after the worker was killed."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.gguf_files import synthetic, write_sparse
from tests.bench.mutation_machines import Connected, local
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.statistics import growth_exponent
from vboot.weights.edits import Dense

OURS = "vector_boot"
_TENSOR = "token_embd.weight"
# Workers that live shorter are started again later and later.
_GOOD_LIFE_SECONDS = 1.2
_HOW = (
    "Models of F16 matrices of 64 x 4, energy unlimited. A small mutation is 8 bytes in one tensor, from the request to"
    " the reply. A restart is the time from SIGKILL of the worker to the reply to `hello`, with all of its state back:"
    " with as many tensors and 100 records, or 100 tensors and as many records of mutations in the journal."
)


def run(setting: Setting) -> Result:
    """Measure growth with tensors, then with records. Raises VbootError."""
    cases = []
    rounds, restarts = setting.choose(full=300, quick=20), setting.choose(full=5, quick=1)
    tensor_counts = (100, 1000, setting.choose(full=10_000, quick=2000))
    record_counts = (10, 1000, setting.choose(full=100_000, quick=2000))
    for tensors in tensor_counts:
        setting.say(f"{tensors:,} tensors")
        with _machine(setting.folder, tensors) as line:
            cases.append(Case(f"mutation, {tensors:,} tensors", "s", {OURS: _mutations(line, rounds)}))
            cases.append(Case(f"restart, {tensors:,} tensors", "s", {OURS: _restarts(line, restarts)}))
    for records in record_counts:
        setting.say(f"{records:,} records")
        with _machine(setting.folder, tensor_counts[0]) as line:
            _mutations(line, records)
            cases.append(Case(f"mutation, {records:,} records", "s", {OURS: _mutations(line, rounds)}))
            cases.append(Case(f"restart, {records:,} records", "s", {OURS: _restarts(line, restarts)}))
    facts = [_growth(cases, *names) for names in _pairs(tensor_counts, record_counts)]
    return Result("Growth of mutations and restarts", _HOW, tuple(cases), tuple(facts), {})


@contextmanager
def _machine(folder: Path, tensors: int) -> Iterator[Connected]:
    model = folder / "model.gguf"
    write_sparse(model, synthetic(tensors, rows=4, columns=64, tokens=0))
    with local(model) as line:
        yield line


def _mutations(line: Connected, count: int) -> tuple[float, ...]:
    """The duration of each of a number of small mutations, in seconds."""
    generation = line.machine.hello().generation
    samples = []
    for number in range(count):
        edit = Dense(_TENSOR, 0, struct.pack("<II", generation & 0x3FFF, number & 0x3FFF | 1 << 20))
        start = time.perf_counter()
        generation = line.machine.mutate([edit], confidence=0.9, base_generation=generation).generation
        samples.append(time.perf_counter() - start)
    return tuple(samples)


def _restarts(line: Connected, count: int) -> tuple[float, ...]:
    samples = []
    for _ in range(count):
        time.sleep(_GOOD_LIFE_SECONDS)
        worker = line.machine.stats().worker.pid
        expected = line.machine.hello().generation
        start = time.perf_counter()
        os.kill(worker, signal.SIGKILL)
        found = line.machine.hello().generation
        samples.append(time.perf_counter() - start)
        assert line.machine.stats().worker.pid != worker, "the worker was not killed"
        assert found == expected, "a restart lost changes"
    return tuple(samples)


def _pairs(tensors: tuple[int, ...], records: tuple[int, ...]) -> Iterator[tuple[str, str, int, int]]:
    for what in ("mutation", "restart"):
        yield what, "tensors", tensors[0], tensors[-1]
        yield what, "records", records[0], records[-1]


def _growth(cases: list[Case], what: str, of: str, small: int, large: int) -> BenchFinding:
    costs = {case.name: case.summary().median for case in cases}
    first, last = costs[f"{what}, {small:,} {of}"], costs[f"{what}, {large:,} {of}"]
    exponent = growth_exponent((small, first), (large, last))
    text = f"{last / first:.3g} times from {small:,} to {large:,} (exponent {exponent:.2f}; 1 is linear)"
    return BenchFinding(f"{what} with {of}", text)
