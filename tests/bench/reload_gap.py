"""For how long nobody serves while the worker is replaced, and whether a heartbeat is missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from builder.executable import executable_path
from image.compose import compose
from qemu.state_file import StateFile
from tests.bench.durable_edits import small_edits
from tests.bench.mutation_machines import local
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_most
from tests.bench.statistics import percentile
from vboot.client.machine import connect
from vboot.protocol.messages import HeartbeatEvent

GAP, WAIT, WHOLE = "nobody serves", "longest wait of another client", "from the request to its reply"
_GOAL_SECONDS = 0.025
_PERIOD_US = 100_000
_PROBATION_MS = 20
_CHANGES = 100
_PAUSE_SECONDS = 0.001
_SLICE_SECONDS = 0.2
_HOW = (
    f"minilm in F16 (a quick run: the tiny model) with a state file and {_CHANGES} small changes in its history; the"
    " worker is replaced by one of the same executable, again and again, each sent by upload, with a probation of"
    f" {_PROBATION_MS} ms. How long nobody served is what the machine says (`gap_us`); the switch is at a beat. Another"
    " client asks `stats` every millisecond meanwhile, and its longest wait around each reload is a sample; a third one"
    " is told of every beat. A beat is missed if it is late by a whole period (100 ms)."
)


class _Beats:
    """The lateness of every beat, as events on one connection."""

    def __init__(self) -> None:
        self.late_us: list[int] = []
        self.numbers: list[int] = []

    def missed(self) -> int:
        """Beats that were a period late, and those that were not told."""
        untold = self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers)
        return sum(late >= _PERIOD_US for late in self.late_us) + untold


def run(setting: Setting) -> Result:
    """Replace the worker many times. Raises VbootError."""
    model = compose("tiny" if setting.quick else "minilm", setting.folder / "model.gguf").path
    state = StateFile(setting.folder / "state.img", None)
    path = state.created(size_mib=None, model_bytes=model.stat().st_size).path
    reloads = setting.choose(full=1000, quick=3)
    binary = executable_path().read_bytes()
    samples: dict[str, list[float]] = {GAP: [], WAIT: [], WHOLE: []}
    with local(model, state=path, options=("--reload-probation-ms", str(_PROBATION_MS))) as line:
        for edit in islice(small_edits(), _CHANGES):
            line.machine.mutate([edit], confidence=0.9)
        setting.say(f"{reloads:,} reloads")
        with _waits(line.socket) as waits, _beats(line.socket) as beats:
            for _ in range(reloads):
                waits.clear()
                start = time.perf_counter()
                gap_us = line.machine.reload(binary).gap_us
                samples[WHOLE].append(time.perf_counter() - start)
                samples[GAP].append(gap_us / 1e6)
                samples[WAIT].append(max(waits))
        assert line.machine.hello().generation == _CHANGES, "a reload lost changes"
    name = f"{reloads:,} reloads"
    cases = [Case(f"{name}, {what}", "s", {"vector_boot": tuple(values)}) for what, values in samples.items()]
    return Result("Reloads", _HOW, tuple(cases), _findings(samples, beats), {})


def _findings(samples: dict[str, list[float]], beats: _Beats) -> tuple[BenchFinding, ...]:
    shown = partial(quantity, unit="s")
    late = ", ".join(f"{name} {percentile(beats.late_us, share) / 1000:.3g} ms" for name, share in _SHARES.items())
    facts = [
        BenchFinding(what, ", ".join(f"{name} {shown(percentile(values, share))}" for name, share in _SHARES.items()))
        for what, values in samples.items()
    ]
    return (
        at_most("longest time in which nobody served", max(samples[GAP]), _GOAL_SECONDS, shown=shown),
        at_most(f"beats missed, of {len(beats.late_us):,}", beats.missed(), 0, shown=str),
        *facts,
        BenchFinding("heartbeat late", late),
    )


_SHARES = {"p50": 0.5, "p99": 0.99, "worst": 1.0}


@contextmanager
def _waits(path: Path) -> Iterator[list[float]]:
    """The seconds of each request of a client that asks every millisecond."""
    waits: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with connect(path, timeout=60, client="waits") as machine:
            while not ended.is_set():
                start = time.perf_counter()
                machine.stats()
                waits.append(time.perf_counter() - start)
                time.sleep(_PAUSE_SECONDS)

    with _thread(ask, ended):
        yield waits


@contextmanager
def _beats(path: Path) -> Iterator[_Beats]:
    """Every beat that a client is told of."""
    beats = _Beats()
    ended = threading.Event()

    def listen() -> None:
        with connect(path, timeout=60, client="beats") as machine:
            machine.subscribe(["heartbeat"])
            while not ended.is_set():
                for event in machine.events(timeout=_SLICE_SECONDS):
                    if isinstance(event, HeartbeatEvent):
                        beats.late_us.append(event.late_us)
                        beats.numbers.append(event.beats)

    with _thread(listen, ended):
        yield beats


@contextmanager
def _thread(job: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=job)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
