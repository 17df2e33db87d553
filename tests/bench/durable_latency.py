"""Duration of a durable change beside SQLite and LMDB, which commit the same bytes to a file in the same folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from image.compose import compose
from qemu.accel import select
from qemu.state_file import StateFile
from tests.bench.durable_edits import redo_bytes, small_edits
from tests.bench.durable_stores import SQLITE, Store, served_sqlite, store_pythons, store_versions
from tests.bench.mutation_machines import Connected, booted, build_image, local
from tests.bench.pipelined import MOST, PipelinedClient
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_least
from tests.bench.sampling import alternate
from tests.bench.statistics import percentile
from vboot.weights.edits import Dense, Edit, Seeded

OURS, MEMORY, BARE = "vector_boot, durable", "vector_boot, journal in memory", "pwrite of 4 KiB + fdatasync"
BEHIND = f"{SQLITE}, behind a Unix socket"
Samples: TypeAlias = Mapping[str, tuple[float, ...]]
_BLOCK = 4096
_BARE_BYTES = 16 << 20
_HOW = (
    "minilm in F16 (a quick run: the tiny model), energy unlimited. Ours is `vector_boot --listen --state FILE`: a"
    " sample is the time from `MachineClient.mutate`, in one Python process, to the reply, which is sent after the"
    " flush; so the client, the JSON, the socket, the change itself and what makes it reversible are in it. SQLite"
    " (Python's `sqlite3`, journal_mode=WAL, synchronous=FULL) and LMDB (PyPI's `lmdb`, its defaults) run in"
    " processes of their own and are timed there, around the transaction alone, without any transport; they commit a"
    " row of as many bytes as the change has in the journal: its edits as JSON, and its blob. SQLite behind a Unix"
    " socket is asked from the process that asks us, with four bytes of length before the row and eight as answer."
    " All files are in one folder; the contenders take turns. The small edit is 32 bytes in one tensor. 64 at once"
    " are 64 requests sent together on one connection, until the last reply, beside one transaction of 64 rows and"
    " 64 transactions. The seeded edit is noise on 1 % of all weights; a store must commit either its recipe or the"
    " bytes that it changed. The dense edit sends every matrix whole. The stores do not apply what they commit."
)


@dataclass(frozen=True)
class _Contest:
    """Who takes part in a case; `edits` go to all machines, and no edit of them twice."""

    setting: Setting
    machines: Mapping[str, Connected]
    stores: Mapping[str, Store]
    edits: Iterator[Edit]
    folder: Path

    def take_turns(self, contenders: Mapping[str, Callable[[], float]], *, rounds: int, quick: int) -> Samples:
        warm_up = self.setting.choose(full=max(1, rounds // 40), quick=1)
        return alternate(contenders, rounds=self.setting.choose(full=rounds, quick=quick), warm_up=warm_up)


def run(setting: Setting) -> Result:
    """Measure all contenders in turns, then a virtual machine alone. Raises VbootError."""
    model = compose("tiny" if setting.quick else "minilm", setting.folder / "model.gguf").path
    pythons = store_pythons(setting)
    cases = []
    edits = small_edits()
    with local(model, state=_state(setting.folder / "state.img", model)) as durable, local(model) as memory:
        for name, measure in _CASES.items():
            setting.say(name)
            folder = setting.folder / name
            folder.mkdir()
            with _opened(pythons, folder) as stores:
                cases.append(measure(_Contest(setting, {OURS: durable, MEMORY: memory}, stores, edits, folder)))
    cases += [] if setting.quick else [_emulated(setting)]
    small = cases[0]
    goals = [
        at_least(f"{small.name}: times as long, {store}", small.ratio(store), 1.0, shown=lambda value: f"{value:.3g}")
        for store in (SQLITE, BEHIND)
    ]
    facts = [BenchFinding(case.name, _quantiles(case)) for case in cases]
    return Result("Durable mutations", _HOW, tuple(cases), (*goals, *facts), store_versions(pythons))


@contextmanager
def _opened(pythons: Mapping[str, Path], folder: Path) -> Iterator[dict[str, Store]]:
    """Every store, each with a new file."""
    with ExitStack() as opened:
        yield {
            name: opened.enter_context(Store(python, name, folder / f"{name[:4]}.db"))
            for name, python in pythons.items()
        }


def _small(contest: _Contest) -> Case:
    size = redo_bytes([next(contest.edits)])
    with served_sqlite(contest.folder / "served.db") as served, _bare(contest.folder / "bare") as write:
        contenders: dict[str, Callable[[], float]] = {
            **{name: partial(_mutate, line, contest.edits) for name, line in contest.machines.items()},
            **{name: partial(store.commit, size) for name, store in contest.stores.items()},
            BEHIND: lambda: served.commit(os.urandom(size)),
            BARE: write,
        }
        samples = contest.take_turns(contenders, rounds=1000, quick=20)
    return Case(f"small edit ({size} bytes to commit)", "s", samples)


def _pipelined(contest: _Contest) -> Case:
    size = redo_bytes([next(contest.edits)])

    def at_once(line: Connected, client: PipelinedClient) -> float:
        return client.mutate(list(islice(contest.edits, MOST)), generation=line.machine.hello().generation)

    with ExitStack() as opened:
        contenders: dict[str, Callable[[], float]] = {
            name: partial(at_once, line, opened.enter_context(PipelinedClient(line.socket)))
            for name, line in contest.machines.items()
        }
        for name, store in contest.stores.items():
            contenders[f"{name}, 1 transaction"] = partial(store.commit, size, rows=MOST)
            contenders[f"{name}, {MOST} transactions"] = partial(store.commit, size, transactions=MOST)
        samples = contest.take_turns(contenders, rounds=40, quick=2)
    return Case(f"{MOST} small edits at once", "s", samples)


def _seeded(contest: _Contest) -> Case:
    edits = (Seeded("*.weight", f"{number:016x}", "normal", 0.01, 0.001) for number in count())
    size = redo_bytes([next(edits)])
    changed = contest.machines[OURS].machine.mutate([next(edits)], confidence=0.9).changed.bytes
    contenders: dict[str, Callable[[], float]] = {
        **{name: partial(_mutate, line, edits) for name, line in contest.machines.items()},
        **{f"{name}, the recipe": partial(store.commit, size) for name, store in contest.stores.items()},
        **{f"{name}, the changed bytes": partial(store.commit, changed) for name, store in contest.stores.items()},
    }
    samples = contest.take_turns(contenders, rounds=20, quick=2)
    shown = f"{size} bytes of recipe, {quantity(changed, 'bytes')} changed"
    return Case(f"seeded edit of the whole model ({shown})", "s", samples)


def _dense(contest: _Contest) -> Case:
    infos = contest.machines[OURS].machine.tensors()
    tensors = [info for info in infos if info.type == "F16" and not info.protected]
    random = np.random.default_rng(1)
    kinds = [
        [Dense(info.name, 0, random.normal(0, 0.1, info.bytes // 2).astype(np.float16).tobytes()) for info in tensors]
        for _ in range(2)
    ]
    size = sum(info.bytes for info in tensors)

    def whole(line: Connected) -> float:
        generation = line.machine.hello().generation
        start = time.perf_counter()
        line.machine.mutate(kinds[generation % 2], confidence=0.9, base_generation=generation)
        return time.perf_counter() - start

    contenders: dict[str, Callable[[], float]] = {
        **{name: partial(whole, line) for name, line in contest.machines.items()},
        **{name: partial(store.commit, size) for name, store in contest.stores.items()},
    }
    samples = contest.take_turns(contenders, rounds=7, quick=1)
    return Case(f"dense edit of the whole model ({quantity(size, 'bytes')})", "s", samples)


_CASES: Mapping[str, Callable[[_Contest], Case]] = {
    "small": _small,
    "pipelined": _pipelined,
    "seeded": _seeded,
    "dense": _dense,
}


def _emulated(setting: Setting) -> Case:
    setting.say("a virtual machine: building its image")
    image = build_image(setting.folder / "image", model_type="F16")
    state = _state(setting.folder / "disk.img", image / "vectorland.gguf")
    with booted(image, state=state) as line:
        samples = alternate({OURS: partial(_mutate, line, small_edits())}, rounds=500, warm_up=20)
    return Case(f"small edit, over virtio-serial into a virtual machine ({select('auto').name})", "s", samples)


def _state(path: Path, model: Path) -> Path:
    """A state file of the default size for a model."""
    return StateFile(path, None).created(size_mib=None, model_bytes=model.stat().st_size).path


def _mutate(line: Connected, edits: Iterator[Edit]) -> float:
    generation = line.machine.hello().generation
    edit = next(edits)
    start = time.perf_counter()
    line.machine.mutate([edit], confidence=0.9, base_generation=generation)
    return time.perf_counter() - start


@contextmanager
def _bare(path: Path) -> Iterator[Callable[[], float]]:
    """A write of one block to a file that was written before, and its flush: what the file system and the disk take."""
    numbers = count()
    path.write_bytes(bytes(_BARE_BYTES))
    file = os.open(path, os.O_RDWR)
    os.fsync(file)

    def write() -> float:
        place = next(numbers) * _BLOCK % _BARE_BYTES
        data = os.urandom(_BLOCK)
        start = time.perf_counter()
        os.pwrite(file, data, place)
        os.fdatasync(file)
        return time.perf_counter() - start

    try:
        yield write
    finally:
        os.close(file)


def _quantiles(case: Case) -> str:
    return ", ".join(
        f"{name} p50 {quantity(percentile(samples, 0.5), 's')} p99 {quantity(percentile(samples, 0.99), 's')}"
        for name, samples in case.samples.items()
    )
