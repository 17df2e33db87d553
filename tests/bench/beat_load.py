"""How late the heartbeat is while clients change weights durably, embed, read and upload at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from image.compose import compose
from qemu.accel import select
from qemu.state_file import StateFile
from tests.bench.durable_edits import small_edits
from tests.bench.mutation_machines import Connected, booted, build_image, local
from tests.bench.results import BenchFinding, Case, Result, Setting, at_most
from vboot.client.machine import MachineClient, connect
from vboot.errors import VbootError
from vboot.protocol.tables import BLOB_LIMIT
from vboot.weights.edits import Seeded

NATIVE, OURS = "native", "vector_boot, full load"
_STATE_MIB = 256
_GOAL_US = 20_000
_READ = "token_embd.weight"
_READ_BYTES = 1 << 20
_UPLOAD, _UPLOAD_BYTES = "00c0ffee" * 4, 4 << 20
_TEXTS = ("a warm sofa near the window and some rain on the roof of the old house",) * 8
_HOW = (
    "minilm in F16 (a quick run: the tiny model) with a state file and unlimited energy. Four clients, each on a"
    " connection of its own and without a pause, in one Python process on the same processors: small durable changes,"
    " every fiftieth with noise on 1 % of all weights; embeddings of 8 texts at once; reads of 1 MiB; uploads"
    " of 4 MiB. A beat is due every 100 ms; its lateness is what the machine measures and reports (quantiles are at"
    " most 7 % too high). Each state has a machine of its own. The clients' Python and, in a virtual machine,"
    " the emulation of its processors share the host's processors with it."
)


@dataclass
class _Work:
    """What one of the clients has done, and the seconds of each request."""

    name: str
    seconds: list[float] = field(default_factory=list)
    error: VbootError | None = None


def run(setting: Setting) -> Result:
    """Measure a local machine idle and under load, then a virtual one; a quick run has none. Raises VbootError."""
    cases: list[Case] = []
    facts: list[BenchFinding] = []
    seconds = setting.choose(full=120, quick=1)
    if setting.quick:
        places = {NATIVE: partial(local, compose("tiny", setting.folder / "model.gguf").path)}
    else:
        setting.say("building an image")
        image = build_image(setting.folder / "image", model_type="F16")
        emulated = f"virtual machine ({select('auto').name})"
        places = {NATIVE: partial(local, image / "vectorland.gguf"), emulated: partial(booted, image)}
    for place, machine in places.items():
        for state in ("idle", "full load"):
            setting.say(f"{place}, {state}")
            file = StateFile(setting.folder / f"{len(facts)}.img", None).created(size_mib=_STATE_MIB, model_bytes=0)
            with machine(state=file.path) as line:
                works = _load(line, seconds) if state == "full load" else _rest(seconds)
                facts += _lateness(line, f"{place}, {state}", works, seconds)
            cases += [Case(f"{work.name}, {place}", "s", {OURS: tuple(work.seconds)}) for work in works]
    return Result("Heartbeat under full load", _HOW, tuple(cases), tuple(facts), {})


def _rest(seconds: float) -> Sequence[_Work]:
    time.sleep(seconds)
    return ()


def _load(line: Connected, seconds: float) -> Sequence[_Work]:
    """Let all clients work for so many seconds. Raises VbootError if one of them failed."""
    until = time.monotonic() + seconds
    works = []
    with ExitStack() as opened:
        threads = []
        for name, job in _JOBS.items():
            machine = opened.enter_context(connect(line.socket, timeout=60, client=name))
            works.append(_Work(name))
            threads.append(threading.Thread(target=_work, args=(works[-1], job(machine), until)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for work in works:
        if work.error:
            raise work.error
    return works


def _work(work: _Work, steps: Iterator[None], until: float) -> None:
    try:
        while not work.seconds or time.monotonic() < until:
            start = time.perf_counter()
            next(steps)
            work.seconds.append(time.perf_counter() - start)
    except VbootError as error:
        work.error = error


def _change(machine: MachineClient) -> Iterator[None]:
    edits = small_edits()
    for number in count():
        edit = Seeded("*.weight", f"{number:016x}", "normal", 0.01, 0.001) if number % 50 == 49 else next(edits)
        machine.mutate([edit], confidence=0.9, base_generation=number)
        yield


def _embed(machine: MachineClient) -> Iterator[None]:
    while True:
        machine.embed(_TEXTS)
        yield


def _read(machine: MachineClient) -> Iterator[None]:
    size = min(_READ_BYTES, machine.tensor(_READ).bytes)
    while True:
        machine.request("read", {"tensor": _READ, "offset": 0, "bytes": size})
        yield


def _upload(machine: MachineClient) -> Iterator[None]:
    data = bytes(BLOB_LIMIT)
    while True:
        for offset in range(0, _UPLOAD_BYTES, BLOB_LIMIT):
            machine.request("upload", {"upload": _UPLOAD, "offset": offset, "total": _UPLOAD_BYTES}, data)
        yield


_JOBS: dict[str, Callable[[MachineClient], Iterator[None]]] = {
    "durable change": _change,
    "embedding of 8 texts": _embed,
    "read of 1 MiB": _read,
    "upload of 4 MiB": _upload,
}


def _lateness(line: Connected, what: str, works: Sequence[_Work], seconds: float) -> list[BenchFinding]:
    stats = line.machine.stats()
    late = stats.heartbeat_late_us
    text = f"p50 {late.p50} µs, p99 {late.p99} µs, p99.9 {late.p999} µs, worst {late.max} µs; {stats.heartbeats} beats"
    fact = BenchFinding(f"heartbeat late, {what}", text)
    if not works:
        return [fact]
    goal = at_most(f"heartbeat late, {what}: p99.9", late.p999, _GOAL_US, shown=lambda value: f"{value / 1000:.3g} ms")
    done = ", ".join(f"{work.name} {len(work.seconds) / seconds:.3g}" for work in works)
    return [goal, fact, BenchFinding(f"requests a second, {what}", done)]
