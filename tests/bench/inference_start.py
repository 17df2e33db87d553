"""From the start of a process to its first embedding, and the memory it holds: ours, onnxruntime and llama.cpp."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder.executable import build_executable
from image.bert import ModelType
from tests.bench.inference_child import EmbeddingChild
from tests.bench.inference_contenders import (
    LLAMA_F16,
    LLAMA_Q8_0,
    ONNXRUNTIME,
    ONNXRUNTIME_INT8,
    Contenders,
    cores,
    laggards,
    make_texts,
    ours,
    prepare,
)
from tests.bench.inference_driver import memory_bytes
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, Unit, at_least
from tests.bench.rust import LOG
from tests.bench.sampling import alternate
from tests.support.local_machine import local_machine
from vboot.client.machine import connect

_RIVALS: Mapping[ModelType, tuple[str, ...]] = {
    "F16": (LLAMA_F16, ONNXRUNTIME),
    "Q8_0": (LLAMA_Q8_0, ONNXRUNTIME_INT8),
}
_FIRST, _LARGEST = (1, 16), (8, 256)
_HOW = (
    "Each sample is a process of its own, with all cores and its files in the page cache: from its start to the"
    " embedding of one text of 16 tokens, then 8 texts of 256 tokens, after which its memory is read in /proc."
    " `--listen` is the machine as an ordinary program, supervisor and worker, asked over its socket with a text, the"
    " sum of both; in process is `vector_boot/examples/embed.rs`, which reads the model instead of mapping it and is"
    " given token ids, as the peers are. The peers are called from Python: what the interpreter, numpy and the import"
    " of the runtime's package took, seconds and anonymous memory, is taken off, the loading of its shared libraries"
    " with it. Peak is the largest resident set, pages of mapped files included."
)


@dataclass(frozen=True)
class Start:
    """One start: `seconds` to the first embedding, the memory after the largest batch, and what Python's share was."""

    seconds: float
    anonymous_bytes: int
    peak_bytes: int
    python_seconds: float = 0.0
    python_bytes: int = 0


def run(setting: Setting) -> Result:
    """Start all of them in turns. Raises ToolError, InputError; does without a peer that cannot be had."""
    contenders = prepare(setting)
    setting.say("building the executable")
    build_executable(log=LOG, progress=lambda _phase, _done, _total: None)
    cases: list[Case] = []
    findings: list[BenchFinding] = []
    for kind, rivals in _RIVALS.items():
        setting.say(f"starting everyone with {kind}")
        starters: dict[str, Callable[[], Start]] = {_listening(kind): partial(_start_machine, contenders.models[kind])}
        for name in (ours(kind), *contenders.present(rivals)):
            starters[name] = partial(_start_process, contenders, name)
        starts = alternate(starters, rounds=setting.choose(full=11, quick=1), warm_up=setting.choose(full=1, quick=0))
        made = _cases(kind, starts)
        cases += made
        findings += _findings(made, contenders.present(rivals), starts)
    findings += laggards(cases, setting)
    return Result("Embeddings: start and memory", _HOW, tuple(cases), tuple(findings), contenders.versions)


def _listening(kind: str) -> str:
    return f"vector_boot --listen {kind}"


def _start_process(contenders: Contenders, name: str) -> Start:
    first, largest = (contenders.ids(make_texts(*shape)) for shape in (_FIRST, _LARGEST))
    started = time.perf_counter()
    with EmbeddingChild(contenders.command(name, threads=cores())) as child:
        answer = child.embed(first)
        seconds = time.perf_counter() - started
        child.embed(largest)
        anonymous, peak = (memory_bytes(field, str(child.pid)) for field in ("RssAnon", "VmHWM"))
    return Start(
        seconds - answer.python_seconds,
        anonymous - answer.python_bytes,
        peak - answer.python_bytes,
        answer.python_seconds,
        answer.python_bytes,
    )


def _start_machine(model: Path) -> Start:
    # A short path of its own: that of a socket may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        started = time.perf_counter()
        with local_machine(Path(folder), model=model) as running, connect(running.socket) as machine:
            machine.embed(make_texts(*_FIRST))
            seconds = time.perf_counter() - started
            machine.embed(make_texts(*_LARGEST))
            stats = machine.stats()
            processes = [str(stats.supervisor.pid), str(stats.worker.pid)]
            anonymous = sum(memory_bytes(field, pid) for pid in processes for field in ("RssAnon", "RssShmem"))
            peak = sum(memory_bytes("VmHWM", pid) for pid in processes)
    return Start(seconds, anonymous, peak)


def _cases(kind: str, starts: Mapping[str, tuple[Start, ...]]) -> list[Case]:
    measures: dict[str, tuple[Unit, Callable[[Start], float]]] = {
        "start to first embedding": ("s", lambda start: start.seconds),
        "anonymous memory": ("bytes", lambda start: start.anonymous_bytes),
        "peak memory": ("bytes", lambda start: start.peak_bytes),
    }
    return [
        Case(f"{kind}, {what}", unit, {name: tuple(map(of, samples)) for name, samples in starts.items()})
        for what, (unit, of) in measures.items()
    ]


def _findings(cases: list[Case], rivals: list[str], starts: Mapping[str, tuple[Start, ...]]) -> list[BenchFinding]:
    findings = [
        at_least(
            f"{case.name}: times {case.ours}'s, {rival}", case.ratio(rival), 1.0, shown=lambda value: f"{value:.3g}"
        )
        for case in cases
        for rival in rivals
    ]
    for rival in rivals:
        last = starts[rival][-1]
        taken = f"{quantity(last.python_seconds, 's')} and {quantity(last.python_bytes, 'bytes')}"
        findings.append(BenchFinding(f"{rival}: taken off for Python and imports", taken))
    return findings
