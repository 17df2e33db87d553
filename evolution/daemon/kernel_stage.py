"""Evolved kernels: a search for a program that improves the model's embeddings; the result is written to a slot.

Like a generation of the weight search it is decided in the shadow, from the run's history alone. Kernels are scored in
numpy, on embeddings that the model computes once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.ctrm.calibration import CalibrationCurve
from evolution.ctrm.contract import Candidate, CtrmLimits, Facts, Measured, ShadowResult
from evolution.ctrm.judge import judge
from evolution.daemon.generation import relative_fall, touched
from evolution.daemon.shadow import Shadow, WeightsChange
from evolution.fitness.contract import Embed, Fitness, Pair
from evolution.kernels import genome, reference, search, to_pixels
from evolution.kernels.constants import pool_of
from evolution.kernels.embeds import recorded, transformed
from evolution.kernels.genome import EvolvedKernel
from evolution.kernels.variation import normalised
from evolution.strategies.search_space import seed_of
from vboot.errors import InputError
from vboot.weights.edits import Program

SLOT = 0
"""There is one evolved kernel; a better one replaces it."""


@dataclass(frozen=True)
class KernelPlan:
    """The settings of a kernel search: its generations, the required relative gain, CTRM's limits and curve."""

    seed: str
    generations: int
    least_gain: float
    limits: CtrmLimits
    curve: CalibrationCurve


@dataclass(frozen=True)
class KernelTrial:
    """The best kernel that was found; it is in the shadow's slot if `refusal` is None."""

    kernel: EvolvedKernel
    edit: Program
    confidence: float
    refusal: str | None
    before: float
    after: float
    digest: str


def require_kernels(shadow: Shadow) -> None:
    """Raises InputError if the model's embeddings do not allow kernels."""
    dim = shadow.run(lambda: shadow.embed(["a text"])).shape[1]
    genome.check(normalised(EvolvedKernel(dim, ())))


def find_kernel(
    shadow: Shadow, fitness: Fitness, plan: KernelPlan, *, pairs: Sequence[Pair], now: EvolvedKernel | None
) -> KernelTrial:
    """Search on `pairs`, and judge the result on the calibration data against the current kernel `now`, if any.

    Raises InputError when the data cannot be scored, LinkLostError when the shadow cannot be restarted.
    """
    embed = _embeddings(shadow, fitness, pairs)
    best = _search(embed.vectors, fitness, plan, embed.embed, pairs)
    calibration = _embeddings(shadow, fitness, fitness.search.calibration).embed
    before = _measured(fitness, calibration if now is None else transformed(now, calibration))
    after = _measured(fitness, transformed(best, calibration))
    edit = to_pixels.edit(best, slot=SLOT)

    def look(change: WeightsChange) -> KernelTrial:
        candidate = Candidate((edit,), 0, change.before, change.after)
        facts = Facts(shadow.terrain, plan.limits, ShadowResult(before, after))
        judgement = judge(candidate, facts, curve=plan.curve)
        rise = -relative_fall(before.score, after.score)
        refusal = judgement.reason
        if refusal is None and not rise > plan.least_gain:
            refusal = f"gain: the relative rise on the calibration data is {rise:.3g}, not above {plan.least_gain:g}"
        return KernelTrial(best, edit, judgement.confidence, refusal, before.score, after.score, change.digest)

    if to_pixels.program(best) == _held(shadow):
        why = "gain: it is the current kernel"
        return KernelTrial(best, edit, 0.0, why, before.score, after.score, shadow.digest)
    trial = shadow.apply((edit,), touched((edit,), shadow.terrain), look)
    if trial.refusal is not None:
        shadow.drop()
    return trial


def probes(kernel: EvolvedKernel, vectors: NDArray[np.float32]) -> Iterator[tuple[bytes, bytes]]:
    """Programs that run the kernel in its slot on vectors f32 (n, dim), and the expected output of each."""
    for vector in vectors:
        row = vector[None]
        expected = reference.run(kernel, row).astype("<f4").tobytes()
        yield b"".join(to_pixels.calls(kernel, row, slot=SLOT)), expected


def dump(kernel: EvolvedKernel) -> str:
    """The kernel as text for `load`."""
    return json.dumps(genome.to_json(kernel))


def load(text: str) -> EvolvedKernel:
    """The kernel that `dump` wrote. Raises InputError for any other text."""
    try:
        return genome.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"the kernel in the run's state is not valid ({error!r:.60})"
        raise InputError(what, remedy="restore the run folder from a backup") from error


@dataclass(frozen=True)
class _Recorded:
    embed: Embed
    vectors: NDArray[np.float32]


def _embeddings(shadow: Shadow, fitness: Fitness, pairs: Sequence[Pair]) -> _Recorded:
    """The parent's embeddings of the texts that the fitness embeds for some pairs."""
    texts: list[str] = []
    found: list[NDArray[np.float32]] = []

    def embed(wanted: Sequence[str]) -> NDArray[np.float32]:
        vectors = shadow.embed(wanted)
        texts.extend(wanted)
        found.append(vectors)
        return vectors

    def look() -> _Recorded:
        texts.clear()
        found.clear()
        fitness.evaluate(embed, pairs)
        vectors = np.concatenate(found)
        return _Recorded(recorded(texts, vectors), vectors)

    return shadow.run(look)


def _search(
    vectors: NDArray[np.float32], fitness: Fitness, plan: KernelPlan, embed: Embed, pairs: Sequence[Pair]
) -> EvolvedKernel:
    def score(kernel: EvolvedKernel) -> float:
        return fitness.evaluate(transformed(kernel, embed), pairs).score

    own = search.KernelSearchPlan(vectors.shape[1], plan.seed, pool_of(vectors))
    state = search.begin(own, score)
    for _ in range(plan.generations):
        state = search.step(state, own, score)
    return state.population[0].kernel


def _measured(fitness: Fitness, embed: Embed) -> Measured:
    """The score of embeddings on the calibration data. The cosines of n unit vectors of sum s add up to |s|^2 - n."""
    seen: list[NDArray[np.float64]] = []

    def watched(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = embed(texts)
        seen.append(vectors.astype(np.float64))
        return vectors

    evaluation = fitness.evaluate(watched, fitness.search.calibration)
    wide = np.concatenate(seen)
    total = wide.sum(axis=0)
    cosine = float((total @ total - len(wide)) / max(1, len(wide) * (len(wide) - 1)))
    return Measured(evaluation.score, evaluation.items, cosine)


def _held(shadow: Shadow) -> bytes:
    """The pixels in the slot: a count as u32, then so many."""
    data = shadow.read(f"evolved.{SLOT}")
    return data[4 : 4 + 3 * int.from_bytes(data[:4], "little")]


def kernel_seed(seed: int, generation: int) -> str:
    """The seed (16 hex) of the search after a generation."""
    return seed_of("kernels", seed, generation)
