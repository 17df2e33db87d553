"""Embeddings end to end, text in: ours through its socket, and the peers in process with their tokenizers."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from builder.executable import build_executable
from tests.bench.inference_child import EmbeddingChild, Texts
from tests.bench.inference_contenders import (
    LLAMA_F16,
    ONNXRUNTIME,
    Contenders,
    cores,
    laggards,
    make_texts,
    ours,
    prepare,
)
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_least
from tests.bench.rust import LOG
from tests.bench.sampling import alternate
from tests.support.local_machine import local_machine
from vboot.client.machine import MachineClient, connect

SOCKET = "vector_boot --listen F16"
_IN_PROCESS = "vector_boot F16, ids in process"
_LLAMA = f"{LLAMA_F16}, text"
_ONNXRUNTIME = f"{ONNXRUNTIME}, tokenizers"
_SHAPES = ((1, 2), (1, 16), (1, 128), (8, 128))
_QUICK_SHAPES = ((1, 2), (1, 16))
_REST_SECONDS = 0.01
_HOW = (
    "Text goes in, on all cores; a sample is the mean of 10 requests that follow each other, after 10 ms of rest. Ours"
    " is `vector_boot --listen`, asked by the project's Python client over the socket, the clock around the client's"
    " call; llama.cpp tokenises and onnxruntime has Hugging Face's `tokenizers` before it, both in process and timed"
    " there, nothing sent anywhere. Our own pass in process, given token ids, shows what socket, client, tokenizer and"
    " the machine around them add; a text of 2 tokens is the empty one."
)


def run(setting: Setting) -> Result:
    """Ask all of them in turns. Raises ToolError, InputError; does without a peer that cannot be had."""
    contenders = prepare(setting)
    setting.say("building the executable")
    build_executable(log=LOG, progress=lambda _phase, _done, _total: None)
    with ExitStack() as stack:
        # A short path of its own: that of a socket may have about 100 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        model = contenders.models["F16"]
        running = stack.enter_context(local_machine(folder, model=model))
        machine = stack.enter_context(connect(running.socket))
        children = {
            name: stack.enter_context(EmbeddingChild(command)) for name, command in _commands(contenders).items()
        }
        cases = []
        for texts, tokens in _QUICK_SHAPES if setting.quick else _SHAPES:
            setting.say(f"{texts} texts of {tokens} tokens")
            samplers = _samplers(contenders, machine, children, make_texts(texts, tokens))
            samples = alternate(samplers, rounds=setting.choose(full=15, quick=2), warm_up=1)
            cases.append(Case(f"{texts} x {tokens} tokens", "s", samples))
    findings = [_overhead(case) for case in cases]
    for case in cases:
        for peer in (_LLAMA, _ONNXRUNTIME):
            if peer in case.samples:
                what = f"{case.name}: times as fast as {peer}"
                findings.append(at_least(what, case.ratio(peer), 1.0, shown=lambda value: f"{value:.3g}"))
    findings += laggards(cases, setting)
    return Result("Embeddings: text in", _HOW, tuple(cases), tuple(findings), contenders.versions)


def _commands(contenders: Contenders) -> dict[str, Sequence[str]]:
    commands: dict[str, Sequence[str]] = {_IN_PROCESS: contenders.command(ours("F16"), threads=cores())}
    if LLAMA_F16 in contenders.commands:
        commands[_LLAMA] = contenders.command(LLAMA_F16, threads=cores())
    if ONNXRUNTIME in contenders.commands:
        vocabulary = str(contenders.models["F16"])
        commands[_ONNXRUNTIME] = [*contenders.command(ONNXRUNTIME, threads=cores()), vocabulary]
    return commands


def _samplers(
    contenders: Contenders, machine: MachineClient, children: Mapping[str, EmbeddingChild], texts: Sequence[str]
) -> dict[str, Callable[[], float]]:
    """By contender, a function that asks it ten times and returns the mean."""
    samplers: dict[str, Callable[[], float]] = {SOCKET: partial(_mean, partial(_ask, machine, texts))}
    for name, child in children.items():
        given: Texts = contenders.ids(texts) if name == _IN_PROCESS else texts
        samplers[name] = partial(_mean, partial(_pass, child, given))
    return samplers


def _mean(ask: Callable[[], float]) -> float:
    time.sleep(_REST_SECONDS)
    return statistics.fmean(ask() for _ in range(10))


def _ask(machine: MachineClient, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    machine.embed(texts)
    return time.perf_counter() - start


def _pass(child: EmbeddingChild, texts: Texts) -> float:
    return child.embed(texts).seconds


def _overhead(case: Case) -> BenchFinding:
    """The cost of a request without its pass: the median over the rounds."""
    pairs = zip(case.samples[SOCKET], case.samples[_IN_PROCESS], strict=True)
    extra = statistics.median(whole - alone for whole, alone in pairs)
    return BenchFinding(f"{case.name}: added to the pass in process", quantity(extra, "s"))
