"""Time from the start of a machine to its answer against the length of its history, beside SQLite and LMDB."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from image.compose import compose
from qemu.state_file import StateFile
from tests.bench.durable_edits import redo_bytes, small_edits
from tests.bench.durable_stores import Store, store_pythons, store_versions
from tests.bench.mutation_machines import local
from tests.bench.pipelined import MOST, PipelinedClient
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_most
from tests.bench.sampling import alternate
from tests.bench.statistics import growth_exponent

OURS, EMPTY = "vector_boot, start to hello", "vector_boot without a state, start to hello"
_STATE_MIB = 1024
_GOAL_SECONDS = 1.0
_TASK_ROWS = 10_000
"""Rows that a store is asked to commit at once."""
_HOW = (
    "minilm in F16 (a quick run: the tiny model) and small edits of 32 bytes, on a state file of 1 GiB. Ours is timed"
    " from the start of `vector_boot --listen --state FILE` to the reply to `hello`, with all generations back; it is"
    " killed between two samples. Its journal verifies the digest of every frame and the sum of every entry. The stores"
    " hold as many rows of as many bytes, and were killed too; each sample has a copy of the files that were left, and"
    " is timed in a process that already runs, from opening the file (SQLite recovers its write-ahead log then) until"
    " the rows are counted one by one. They verify nothing. The files are in the page cache; ours are read past it"
    " (O_DIRECT). 64 at once: made by 64 pipelined requests each, a frame. One by one: each change was a frame of its"
    " own, a block of 4 KiB; the rows of the stores are always made in transactions of 64. The journal's own part is"
    " what the same start without a state takes less."
)


@dataclass(frozen=True)
class _History:
    """So many records, of which so many at once were made durable."""

    name: str
    count: int
    group: int


def run(setting: Setting) -> Result:
    """Measure each length of history, in groups and one by one. Raises VbootError."""
    model = compose("tiny" if setting.quick else "minilm", setting.folder / "model.gguf").path
    pythons = store_pythons(setting)
    counts = (10, 100) if setting.quick else (10, 100, 1000, 10_000, 100_000)
    cases, facts = [], []
    for group, longest in ((MOST, counts), (1, counts[-2:])):
        for count in longest:
            way = "one by one" if group == 1 else f"{group} at once"
            setting.say(f"{count:,} records, {way}")
            case, replay = _measure(setting, model, pythons, _History(f"{count:,} records, {way}", count, group))
            cases.append(case)
            facts.append(replay)
    facts += [_growth(cases, counts, name) for name in (OURS, *pythons)]
    goals = [
        at_most(case.name, case.summary().median, _GOAL_SECONDS, shown=partial(quantity, unit="s"))
        for case in cases
        if case.name.startswith(f"{counts[-1]:,} ")
    ]
    return Result("Recovery", _HOW, tuple(cases), (*goals, *facts), store_versions(pythons))


def _measure(
    setting: Setting, model: Path, pythons: Mapping[str, Path], history: _History
) -> tuple[Case, BenchFinding]:
    rounds = setting.choose(full=7, quick=1)
    with tempfile.TemporaryDirectory(dir=setting.folder) as at:
        folder = Path(at)
        state = StateFile(folder / "state.img", None).created(size_mib=_STATE_MIB, model_bytes=0).path
        _fill(model, state, history)
        size = redo_bytes(list(islice(small_edits(), 1)))
        for store, python in pythons.items():
            _fill_store(Store(python, store, folder / store[:4]), size, history)
        contenders: dict[str, Callable[[], float]] = {
            OURS: partial(_start, model, state, history.count),
            EMPTY: partial(_start, model, None, 0),
            **{
                f"{store}, open and count": partial(_open, python, store, folder, history.count)
                for store, python in pythons.items()
            },
        }
        samples = alternate(contenders, rounds=rounds, warm_up=setting.choose(full=1, quick=0))
    case = Case(history.name, "s", samples)
    own = case.summary(OURS).median - case.summary(EMPTY).median
    return case, BenchFinding(history.name, f"{quantity(own, 's')} of it the journal's own")


def _fill(model: Path, state: Path, history: _History) -> None:
    """Make so many changes, so many at once, and kill the machine."""
    edits = small_edits()
    with local(model, state=state) as line, PipelinedClient(line.socket) as client:
        for done in range(0, history.count, history.group):
            client.mutate(list(islice(edits, min(history.group, history.count - done))), generation=done)
        assert line.machine.hello().generation == history.count, "changes are missing"


def _fill_store(store: Store, size: int, history: _History) -> None:
    """Commit as many rows, 64 in a transaction, which leaves the same rows as one each, and kill the store."""
    with store:
        for done in range(0, history.count, _TASK_ROWS):
            transactions, rest = divmod(min(_TASK_ROWS, history.count - done), MOST)
            if transactions:
                store.commit(size, rows=MOST, transactions=transactions)
            if rest:
                store.commit(size, rows=rest)
        store.kill()


def _start(model: Path, state: Path | None, count: int) -> float:
    """The seconds from the start of a machine to the reply to `hello`."""
    start = time.perf_counter()
    with local(model, state=state) as line:
        seconds = time.perf_counter() - start
        assert line.machine.greeted.generation == count, "recovery lost changes"
    return seconds


def _open(python: Path, store: str, folder: Path, count: int) -> float:
    with _copy(folder, store[:4]) as path, Store(python, store, path) as child:
        seconds, found = child.count()
    assert found == count, f"{store} has {found} rows"
    return seconds


@contextmanager
def _copy(folder: Path, name: str) -> Iterator[Path]:
    """The files that a killed store has left, again; the copy of the database."""
    with tempfile.TemporaryDirectory(dir=folder) as at:
        for ending in ("", "-wal"):
            if (source := folder / f"{name}{ending}").exists():
                shutil.copyfile(source, Path(at, source.name))
        yield Path(at, name)


def _growth(cases: list[Case], counts: tuple[int, ...], name: str) -> BenchFinding:
    costs = []
    for count in (counts[0], counts[-1]):
        case = next(case for case in cases if case.name == f"{count:,} records, {MOST} at once")
        contender = next(contender for contender in case.samples if contender.startswith(name))
        costs.append(case.summary(contender).median)
    exponent = growth_exponent((counts[0], costs[0]), (counts[-1], costs[1]))
    text = f"{costs[1] / costs[0]:.3g} times from {counts[0]:,} to {counts[-1]:,} records (exponent {exponent:.2f})"
    return BenchFinding(f"growth, {name}", text)
