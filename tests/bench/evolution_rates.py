"""The speed of a run of EvolutionDaemonV7, and the cost of its own work compared with that of the evaluations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.executable import build_library
from evolution.daemon import events as e
from evolution.daemon.body import BridgeBody
from evolution.daemon.config import Admission, DaemonConfig, StrategyPlan
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness.contract import Pair, SearchData
from evolution.fitness.retrieval import RetrievalFitness
from evolution.strategies.registry import make
from evolution.strategies.tiers import STANDARD_TIERS
from image.compose import compose
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.rust import LOG
from vboot.client.bridge import RustNeuralBridge

DAEMON, RUNTIME = "an evaluation by the daemon", "the runtime alone, the same texts"
_GOAL = 0.05
_WORDS = (
    "model", "machine", "weights", "journal", "kernel", "vector", "image", "serial", "device", "memory", "thread",
    "matrix", "tensor",
)  # fmt: skip
_HOW = (
    "minilm in F16, antithetic_es in the tier `norms`, 32 proposals a generation, batches of 64 made-up pairs of about"
    " 10 and 30 words; every move is accepted, so that all parts of the loop run. An evaluation is: mutate the shadow,"
    " embed 128 texts, score, roll back; beside it, embedding the same texts over the same bridge and nothing else. The"
    " body is a second bridge: a move is mutated on trial, digested, interrupted, watched with 8 pairs and promoted."
)


@dataclass
class _Heard:
    evaluated: list[float] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)
    generations: list[e.GenerationEnded] = field(default_factory=list)

    def __call__(self, event: e.DaemonEvent) -> None:
        if isinstance(event, e.Evaluated):
            self.evaluated.append(event.seconds)
        elif isinstance(event, e.Applied):
            self.applied.append(event.milliseconds / 1000)
        elif isinstance(event, e.GenerationEnded):
            self.generations.append(event)


def run(setting: Setting) -> Result:
    """Run some generations. Raises ToolError, MachineError."""
    setting.say("building the library, composing minilm")
    library = build_library(log=LOG, progress=lambda _phase, _done, _total: None)
    model = compose("minilm", setting.folder / "minilm.gguf").path
    fitness = RetrievalFitness(_data(), seed=1)
    generations = setting.choose(full=6, quick=1)
    setting.say(f"{generations} generations")
    heard = _Heard()
    config = DaemonConfig(generations=generations, admission=Admission(least_gain=-1e9, most_lost=1e9, watch_lost=1e9))
    EvolutionDaemonV7(
        BridgeBody(model, bridge=_loaded(library, model)),
        model,
        fitness,
        StrategyPlan("antithetic_es", (STANDARD_TIERS["norms"],)),
        setting.folder / "run",
        config=config,
        listeners=[heard],
    ).run()
    setting.say("the runtime alone")
    bare, proposing = _bare(model, library, fitness, rounds=len(heard.evaluated))
    case = Case("64 pairs", "s", {DAEMON: tuple(heard.evaluated), RUNTIME: bare})
    moves = Case("a move applied to the body", "s", {"mutate": tuple(heard.applied)}) if heard.applied else None
    return Result("Evolution", _HOW, (case, *([moves] if moves else [])), _findings(heard, case, proposing), {})


def _findings(heard: _Heard, case: Case, proposing: float) -> tuple[BenchFinding, ...]:
    seconds = sum(event.seconds for event in heard.generations)
    outside = sum(event.seconds_outside_evaluation for event in heard.generations) / seconds
    applied = sum(heard.applied)
    return (
        BenchFinding("share of time outside evaluation", f"{outside:.2%}", f"under {_GOAL:.0%}", outside < _GOAL),
        BenchFinding("evaluations a second", f"{len(heard.evaluated) / seconds:.2f}"),
        BenchFinding("proposals a second, asking alone", f"{1 / proposing:,.0f}"),
        BenchFinding(
            "moves applied a second, mutation alone", f"{len(heard.applied) / applied:,.0f}" if applied else "none"
        ),
        BenchFinding("the runtime alone over an evaluation", f"{case.ratio(RUNTIME):.3f}"),
        BenchFinding("an evaluation", quantity(case.summary().median, "s")),
    )


def _loaded(library: Path, model: Path) -> RustNeuralBridge:
    bridge = RustNeuralBridge(library=library)
    bridge.initialize(model)
    return bridge


def _bare(model: Path, library: Path, fitness: RetrievalFitness, *, rounds: int) -> tuple[tuple[float, ...], float]:
    """The seconds of each of several embeddings of a batch's texts, and of asking for one proposal."""
    texts: list[str] = []
    with RustNeuralBridge(library=library, energy=False) as bridge:
        bridge.initialize(model)
        with bridge.client(timeout=60) as machine:

            def embed(shown: Sequence[str]) -> object:
                texts[:] = shown
                return machine.embed(shown).vectors

            fitness.evaluate(embed, fitness.batch(0))  # type: ignore[arg-type]
            samples = []
            for _ in range(rounds):
                started = time.perf_counter()
                machine.embed(texts)
                samples.append(time.perf_counter() - started)
            strategy = make("antithetic_es", machine.tensors(), STANDARD_TIERS["norms"], 1)
    started = time.perf_counter()
    asked = len(strategy.ask())
    return tuple(samples), (time.perf_counter() - started) / asked


def _data() -> SearchData:
    """Generated pairs: the measurement does not depend on their content."""

    def text(number: int, words: int) -> str:
        return f"{number} " + " ".join(_WORDS[(number * 7 + step * step) % len(_WORDS)] for step in range(words))

    pairs = tuple(Pair(text(number, 10), text(number, 30)) for number in range(256))
    return SearchData(pairs[:192], pairs[192:248], pairs[248:])
