"""From a result of evolution to its execution: in the running machine, and through files that a consumer reloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from builder.executable import build_library
from evolution.fallback.consumer import ReloadingConsumer
from evolution.fallback.current import Current
from evolution.fallback.v6 import EvolutionDaemonV6
from evolution.fallback.wgsl_device import WgslRunner
from evolution.kernels import to_pixels
from evolution.kernels.constants import quantised
from evolution.kernels.genome import EvolvedKernel
from evolution.kernels.variation import normalised, weighted_sum
from image.compose import compose
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.rust import LOG
from tests.bench.sampling import alternate
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.weights.edits import Edit, Seeded

V7, V6 = "V7: the running machine", "V6: files and reloading"
_DIM = 384
_VECTORS = np.random.default_rng(1).normal(0, 0.05, (16, _DIM)).astype(np.float32)
_TEXT = ["A machine that is a model."]
_SLOT = 0
_WAIT_SECONDS = 120.0
_HOW = (
    "minilm in F16. A sample begins with a new kernel (centring by a vector of its own) or a new mutation (noise on 1 %"
    " of all weights) and ends with its results: 16 vectors through the kernel, or one text's embedding. V7: `mutate`,"
    " then `execute_pixels` or `embed`, on a RustNeuralBridge. V6: the shader is validated, compared with the reference"
    " and written, or the model is written by the surgeon; a consumer in another thread, which looks every 5 ms, checks"
    " digests, reloads and runs it. Both adapters of V6 are the host's; drivers keep compiled shaders on the disk."
)


@dataclass
class _Files:
    """The V6 path, and the duration of each publication alone, in seconds."""

    daemon: EvolutionDaemonV6
    consumer: ReloadingConsumer
    thread: ThreadPoolExecutor
    publishing: list[float] = field(default_factory=list)

    def seconds(self, publish: Callable[[], Current], execute: Callable[[], object]) -> float:
        """From the start of a publication to the end of its execution by the consumer."""
        generation = self.daemon.current.generation + 1

        def consume() -> float:
            self.consumer.wait(generation=generation, timeout=_WAIT_SECONDS)
            execute()
            return time.perf_counter()

        end = self.thread.submit(consume)
        start = time.perf_counter()
        publish()
        self.publishing.append(time.perf_counter() - start)
        return end.result(_WAIT_SECONDS) - start


def run(setting: Setting) -> Result:
    """Measure both paths in turns. Raises VbootError, also where there is no adapter for WGSL."""
    setting.say("building the library")
    library = build_library(log=LOG, progress=lambda _phase, _done, _total: None)
    setting.say("composing minilm")
    model = compose("minilm", setting.folder / "minilm.gguf").path
    rounds = setting.choose(full=20, quick=2)
    with _v7(library, model) as machine, _v6(library, model, setting.folder / "published") as files:
        setting.say("a kernel")
        kernels, weights = _kernels(), _mutations()
        kernel = alternate(
            {
                V7: lambda: _seconds(lambda: _run_kernel(machine, next(kernels))),
                V6: lambda: files.seconds(
                    lambda: files.daemon.publish(next(kernels)), lambda: files.consumer.transform(_VECTORS)
                ),
            },
            rounds=rounds,
            warm_up=1,
        )
        cases = [Case("a kernel", "s", kernel)]
        facts = [_fact(cases[-1], files.publishing[1:])]
        files.publishing.clear()
        setting.say("a mutation of the weights")
        mutation = alternate(
            {
                V7: lambda: _seconds(lambda: _run_mutation(machine, next(weights))),
                V6: lambda: files.seconds(
                    lambda: files.daemon.publish_model(next(weights)), lambda: files.consumer.embed(_TEXT)
                ),
            },
            rounds=rounds,
            warm_up=1,
        )
        cases.append(Case("a mutation of the weights", "s", mutation))
        facts.append(_fact(cases[-1], files.publishing[1:]))
        facts.append(BenchFinding("adapter", files.consumer.adapter))
    return Result("Evolution to execution", _HOW, tuple(cases), tuple(facts), {})


@contextmanager
def _v7(library: Path, model: Path) -> Iterator[MachineClient]:
    with RustNeuralBridge(library=library, energy=False) as bridge:
        bridge.initialize(model)
        with bridge.client() as machine:
            yield machine


@contextmanager
def _v6(library: Path, model: Path, folder: Path) -> Iterator[_Files]:
    with ExitStack() as stack:
        # An adapter each: in earnest they are two processes.
        daemon = EvolutionDaemonV6(folder, model=model, runner=stack.enter_context(WgslRunner()))
        bridge = RustNeuralBridge(library=library, energy=False)
        consumer = stack.enter_context(ReloadingConsumer(folder, bridge=bridge, runner=WgslRunner()))
        yield _Files(daemon, consumer, stack.enter_context(ThreadPoolExecutor(1)))


def _kernels() -> Iterator[EvolvedKernel]:
    random = np.random.default_rng(2)
    while True:
        yield normalised(EvolvedKernel(_DIM, weighted_sum(quantised(random.normal(0, 0.05, _DIM)), -1.0)))


def _mutations() -> Iterator[list[Edit]]:
    number = 0
    while True:
        number += 1
        yield [Seeded("*.weight", f"{number:016x}", "normal", 0.01, 0.001)]


def _run_kernel(machine: MachineClient, kernel: EvolvedKernel) -> None:
    machine.mutate([to_pixels.edit(kernel, slot=_SLOT)], confidence=0.95)
    for program in to_pixels.calls(kernel, _VECTORS, slot=_SLOT):
        machine.execute_pixels(program)


def _run_mutation(machine: MachineClient, edits: Sequence[Edit]) -> None:
    machine.mutate(edits, confidence=0.95)
    machine.embed(_TEXT)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _fact(case: Case, publishing: Sequence[float]) -> BenchFinding:
    v6, v7 = case.summary(V6).median, case.summary(V7).median
    measured = (
        f"V7 {quantity(v7, 's')}, V6 {quantity(v6, 's')}, of which publishing {quantity(median(publishing), 's')}"
    )
    return BenchFinding(f"{case.name}, until executed", measured)
