"""The speed of the forward pass: ours against onnxruntime and llama.cpp, token ids in, embeddings out."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench.inference_child import EmbeddingChild
from tests.bench.inference_contenders import (
    PRECISIONS,
    RIVALS,
    Contenders,
    laggards,
    lowest_cosine,
    make_texts,
    ours,
    prepare,
)
from tests.bench.results import BenchFinding, Case, Result, Setting, at_least
from tests.bench.sampling import alternate

GOAL = 1.0
SHAPES = ((1, 16), (1, 128), (1, 256), (8, 16), (8, 128), (8, 256))
"""Texts and tokens of each."""
THREADS = (1, 2)

_QUICK_SHAPES = ((1, 16), (8, 128))
_TOKENS_A_SAMPLE = 1024
_LEAST_PASSES = 3
_REST_SECONDS = 0.01
_HOW = (
    "all-MiniLM-L6-v2, one process for each runtime, the model loaded. Token ids go in, embeddings of length one come"
    " out; only the pass is timed, without tokenisation. A sample is the median of three or"
    " more passes that follow each other, enough of them for 1,024 tokens; all threads rest for 10 ms before it, so"
    " that those still spinning after their own pass take nothing from the next. Ours is"
    " `vector_boot/examples/embed.rs`. onnxruntime runs the float32 graph of `tests/bench/onnx_graph.py` with its fused"
    " attention, and the same graph after its own dynamic int8 quantisation (per channel, products alone). That one is"
    " information: like llama.cpp's Q8_0 it rounds the activations to 8 bits and multiplies integers, where our Q8_0"
    " stores the weights in 8 bits and multiplies in float32. llama.cpp, compiled for this processor, reads the same"
    " GGUF as ours and takes up to 512 tokens at once, its default and fastest: in a larger batch every text looks at"
    " all the others and masks them. Each embedding of ours is the same to the bit whatever the number of threads, the"
    " batch and the SIMD width; the peers do not promise that."
)


@dataclass(frozen=True)
class Race:
    """One precision of ours and its rivals, on `texts` texts of `tokens` tokens with `threads` threads."""

    precision: str
    texts: int
    tokens: int
    threads: int

    @property
    def name(self) -> str:
        """The name of its case."""
        return f"{self.precision}, {self.threads} thread{'s'[: self.threads > 1]}, {self.texts} x {self.tokens} tokens"


def run(setting: Setting) -> Result:
    """Race all of them on every shape. Raises ToolError, InputError; does without a peer that cannot be had."""
    contenders = prepare(setting)
    setting.say("comparing everyone's embeddings with the golden ones")
    cosines = {name: lowest_cosine(contenders, name, setting) for name in contenders.commands}
    cases: dict[Race, Case] = {}
    for threads in THREADS:
        with contextlib.ExitStack() as stack:
            children = {
                name: stack.enter_context(EmbeddingChild(contenders.command(name, threads=threads)))
                for name in contenders.commands
            }
            for texts, tokens in _QUICK_SHAPES if setting.quick else SHAPES:
                setting.say(f"{texts} texts of {tokens} tokens, threads: {threads}")
                samples = _measure(setting, contenders, children, texts, tokens)
                cases |= _cases(samples, texts, tokens, threads)
    findings = (*_goals(cases), *laggards(cases.values(), setting), *_rates(cases), *_nearness(cosines))
    return Result("Embeddings: the forward pass", _HOW, tuple(cases.values()), findings, contenders.versions)


def _measure(
    setting: Setting, contenders: Contenders, children: Mapping[str, EmbeddingChild], texts: int, tokens: int
) -> dict[str, tuple[float, ...]]:
    """Seconds of a pass, by contender."""
    ids = contenders.ids(make_texts(texts, tokens))
    passes = max(_LEAST_PASSES, _TOKENS_A_SAMPLE // (texts * tokens))
    if setting.quick:
        passes = _LEAST_PASSES
    samplers = {name: partial(_sample, child, ids, passes) for name, child in children.items()}
    return alternate(samplers, rounds=setting.choose(full=9, quick=2), warm_up=1)


def _sample(child: EmbeddingChild, ids: Sequence[Sequence[int]], passes: int) -> float:
    time.sleep(_REST_SECONDS)
    return statistics.median(child.embed(ids).seconds for _ in range(passes))


def _cases(samples: Mapping[str, tuple[float, ...]], texts: int, tokens: int, threads: int) -> dict[Race, Case]:
    races = {kind: Race(kind, texts, tokens, threads) for kind in PRECISIONS}
    return {
        race: Case(race.name, "s", {name: samples[name] for name in (ours(kind), *RIVALS[kind]) if name in samples})
        for kind, race in races.items()
    }


def _goals(cases: Mapping[Race, Case]) -> list[BenchFinding]:
    """For each precision and number of threads, the shape on which ours does worst against the first rival."""
    findings = []
    for kind in PRECISIONS:
        rival = RIVALS[kind][0]
        for threads in THREADS:
            group = [case for race, case in cases.items() if (race.precision, race.threads) == (kind, threads)]
            raced = [case for case in group if rival in case.samples]
            if raced:
                worst = min(raced, key=lambda case: case.ratio(rival))
                what = f"{worst.name} (the worst of {len(raced)}): times as fast as {rival}"
                findings.append(at_least(what, worst.ratio(rival), GOAL, shown=lambda value: f"{value:.3g}"))
    return findings


def _rates(cases: Mapping[Race, Case]) -> list[BenchFinding]:
    findings = []
    for race, case in cases.items():
        rates = {name: race.texts / case.summary(name).median for name in case.samples}
        parts = [f"{name} {rate:,.0f} texts ({rate * race.tokens:,.0f} tokens)" for name, rate in rates.items()]
        findings.append(BenchFinding(f"{race.name}, in a second", ", ".join(parts)))
    return findings


def _nearness(cosines: Mapping[str, float]) -> list[BenchFinding]:
    said = ", ".join(f"{name} {cosine:.6f}" for name, cosine in cosines.items())
    return [BenchFinding("lowest cosine to the golden embeddings over the golden texts", said)]
