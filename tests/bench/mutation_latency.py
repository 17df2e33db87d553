"""Duration of a small change of each kind, over a socket and into a virtual machine, and the heartbeat during it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from qemu.accel import select
from tests.bench.mutation_machines import SERIAL, UNIX, WEIGHT, Connected, booted, build_image, local
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.sampling import alternate
from tests.bench.statistics import percentile
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse

_HOW = (
    "minilm in Q8_0, energy unlimited. A sample is the time from `MachineClient.mutate` to its reply in one Python"
    " process, which computes the CRC of the blob. The machine behind the Unix socket runs beside it; the one behind"
    " virtio-serial is emulated or virtualised, as the table of the host says. Noise and the low-rank edit change one"
    " matrix of 384 x 1536. Every change differs from the others. Bytes on the wire are JSON and blobs in both"
    " directions. The lateness of the heartbeat is what the machine reports, each time of a new machine: idle, and"
    " changed without pause by noise on all its weights."
)
_COLUMNS, _ROWS = 384, 1536
_BLOCK_BYTES = 34
_HEART = Seeded("*.weight", "00c0ffee00c0ffee", "normal", 0.01, 0.001)


def run(setting: Setting) -> Result:
    """Measure both machines in turns. Raises VbootError."""
    setting.say("building an image of minilm in Q8_0")
    image = build_image(setting.folder / "image", model_type="Q8_0")
    model = image / "vectorland.gguf"
    cases, facts = [], []
    rounds = setting.choose(full=200, quick=10)
    with local(model) as beside, booted(image) as inside:
        for kind, make in _EDITS.items():
            setting.say(kind)
            case, fact = _measure(kind, make, {UNIX: beside, SERIAL: inside}, rounds)
            cases.append(case)
            facts.append(fact)
        late = inside.machine.stats().heartbeat_late_us
    facts.append(BenchFinding(f"heartbeat late, {SERIAL}, over all of this", f"p99 {late.p99} µs, worst {late.max} µs"))
    seconds = setting.choose(full=10, quick=2)
    facts += [_heart(model, seconds, load=load) for load in (False, True)]
    return Result("Small mutations", _HOW, tuple(cases), tuple(facts), {"accelerator": select("auto").name})


def _measure(
    kind: str, make: Callable[[int], Edit], machines: Mapping[str, Connected], rounds: int
) -> tuple[Case, BenchFinding]:
    generations = {name: line.machine.hello().generation for name, line in machines.items()}
    wire: dict[str, int] = {}

    def once(name: str, line: Connected) -> float:
        edit = make(generations[name])
        before = line.wire_bytes()
        start = time.perf_counter()
        done = line.machine.mutate([edit], confidence=0.9, base_generation=generations[name])
        seconds = time.perf_counter() - start
        wire[name] = line.wire_bytes() - before
        generations[name] = done.generation
        return seconds

    contenders = {name: partial(once, name, line) for name, line in machines.items()}
    case = Case(kind, "s", alternate(contenders, rounds=rounds, warm_up=2))
    times = ", ".join(
        f"{name} p50 {quantity(percentile(samples, 0.5), 's')} p99 {quantity(percentile(samples, 0.99), 's')}"
        for name, samples in case.samples.items()
    )
    return case, BenchFinding(kind, f"{times}, {wire[UNIX]} bytes on the wire")


def _heart(model: Path, seconds: float, *, load: bool) -> BenchFinding:
    with local(model) as line:
        until = time.monotonic() + seconds
        changes = 0
        while (left := until - time.monotonic()) > 0:
            if load:
                line.machine.mutate([_HEART], confidence=0.9, base_generation=changes)
                changes += 1
            else:
                time.sleep(left)
        late = line.machine.stats().heartbeat_late_us
    state = f"{changes / seconds:.1f} mutations of all weights a second" if load else "idle"
    return BenchFinding(f"heartbeat late, {UNIX}, {state}", f"p99 {late.p99} µs, worst {late.max} µs")


def _dense(number: int) -> Edit:
    blocks = np.random.default_rng(number).integers(-100, 100, (30, _BLOCK_BYTES), np.int8)
    blocks[:, :2] = np.float16(0.01).reshape(1, 1).view(np.int8)
    return Dense(WEIGHT, 0, blocks.tobytes())


def _sparse(number: int) -> Edit:
    random = np.random.default_rng(number)
    indices = np.sort(random.choice(_COLUMNS * _ROWS, 16, replace=False)).astype(np.uint64)
    return Sparse(WEIGHT, "add", indices, random.normal(0.1, 0.01, 16).astype(np.float32))


def _low_rank(number: int) -> Edit:
    random = np.random.default_rng(number)
    a, b = (random.normal(0, 0.1, (size, 1)).astype(np.float32) for size in (_ROWS, _COLUMNS))
    return LowRank(WEIGHT, 0.1, a, b)


def _program(number: int) -> Edit:
    return Program("evolved.0", np.random.default_rng(number).bytes(3 * 64))


_EDITS: Mapping[str, Callable[[int], Edit]] = {
    "dense, 30 blocks": _dense,
    "sparse, 16 elements": _sparse,
    "low_rank, rank 1": _low_rank,
    "seeded normal, 1 %": lambda number: Seeded(WEIGHT, f"{number:016x}", "normal", 0.01, 0.1),
    "seeded step, 1 %": lambda number: Seeded(WEIGHT, f"{number:016x}", "step", 0.01, 1),
    "seeded scale, 1 %": lambda number: Seeded(WEIGHT, f"{number:016x}", "scale", 0.01, 0.1),
    "program, 64 pixels": _program,
}
