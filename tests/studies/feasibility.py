"""Which changes of weights a model tolerates, and which a search can improve: the basis of the tiers.

    python -m tests.studies.feasibility [--lists FOLDER] [-o docs/feasibility.json]

For every tier and some sizes of its noise: the relative change of the loss on one fixed set of hard pairs, over some
seeds. A change is neutral within 1 %, and degraded beyond 5 %. `signal` is the standard deviation over its mean's
distance from 0: what a search can learn from beside what the noise costs. Then a few generations of antithetic search
in each tier, at equal evaluations, judged on held-out pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evolution.fitness.contract import Dataset
from evolution.fitness.report import retrieval_report
from evolution.fitness.retrieval import RetrievalFitness
from evolution.strategies.contract import Verdict
from evolution.strategies.registry import make
from evolution.strategies.search_space import Noise, combine, search_space
from evolution.strategies.tiers import STANDARD_TIERS, Tier
from tests.studies.models import data_set, model_file, shadow
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import RequestRefusedError

SEEDS = 12
PAIRS = 128
DOCUMENT_CHARACTERS = 200
GENERATIONS = 5
NEUTRAL, DEGRADED = 0.01, 0.05

MATRICES = Tier("matrices", "normal", ("blk.*[!m].weight",), sigma=1e-3)
"""Not a standard tier: changing every weight of every matrix takes as long as a pass over the model."""

SIZES: dict[str, tuple[float, ...]] = {
    "output": (0.01, 0.03, 0.1),
    "norms": (0.003, 0.01, 0.03, 0.1),
    "matrices": (1e-3, 3e-3, 1e-2),
    "low_rank": (1e-3, 3e-3, 1e-2),
    "scales": (0.01, 0.03, 0.1),
    "codes": (1e-2, 1e-1, 1.0),
}
SEARCHED = ("norms", "low_rank", "scales", "codes")


def main() -> None:
    """Run the study on both types and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=None)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/feasibility.json"))
    arguments = parser.parse_args()
    data = data_set(arguments.lists) if arguments.lists else data_set()
    found: dict[str, Any] = {"data": {"source": data.source, "sha256": data.sha256}, "noise": [], "search": []}
    for weights in ("F16", "Q8_0"):
        with shadow(model_file(weights)) as machine:
            for row in _noise(machine, data, weights):
                found["noise"].append(row)
                print(row, flush=True)
        for tier in SEARCHED:
            with shadow(model_file(weights)) as machine:
                try:
                    found["search"].append(_search(machine, data, weights, tier))
                    print(found["search"][-1], flush=True)
                except InputError as error:  # this type has no tensors of the tier
                    print(weights, tier, error)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def _fitness(data: Dataset, pairs: int) -> RetrievalFitness:
    return RetrievalFitness(data.search, seed=1, batch_size=pairs, document_chars=DOCUMENT_CHARACTERS)


def _sized(name: str, size: float) -> Tier:
    tier = STANDARD_TIERS.get(name, MATRICES)
    return dataclasses.replace(tier, density=size) if tier.form == "step" else dataclasses.replace(tier, sigma=size)


def _noise(machine: MachineClient, data: Dataset, weights: str) -> Iterator[dict[str, Any]]:
    fitness = _fitness(data, PAIRS)
    pairs = fitness.batch(1_000_000)
    embed = lambda texts: machine.embed(texts).vectors  # noqa: E731
    before = -fitness.evaluate(embed, pairs).score
    base = machine.hello().generation
    for name, sizes in SIZES.items():
        for size in sizes:
            changes: list[float | None] = []
            milliseconds = []
            try:
                space = search_space(_sized(name, size), machine.tensors())
            except InputError:  # this type has no tensors of the tier
                break
            for seed in range(SEEDS):
                edits = combine(space, [Noise(f"{seed:016x}", 1.0)])
                started = time.perf_counter()
                try:
                    machine.mutate(edits, confidence=1.0)
                except RequestRefusedError as refusal:
                    changes.append(0.0 if refusal.code == 1008 else None)
                    continue
                milliseconds.append(1e3 * (time.perf_counter() - started))
                changes.append(-fitness.evaluate(embed, pairs).score / before - 1)
                machine.rollback(base)
            yield {
                "weights": weights,
                "tier": name,
                "size": size,
                **_shares(changes),
                "apply_ms": _median(milliseconds),
            }


def _shares(changes: Sequence[float | None]) -> dict[str, Any]:
    known = [change for change in changes if change is not None]
    count = len(changes)
    return {
        "mean": statistics.fmean(known) if known else None,
        "deviation": statistics.pstdev(known) if known else None,
        "best": min(known, default=None),
        "better": sum(change < -NEUTRAL for change in known) / count,
        "neutral": sum(abs(change) <= NEUTRAL for change in known) / count,
        "worse": sum(change > NEUTRAL for change in known) / count,
        "degraded": sum(change is None or change > DEGRADED for change in changes) / count,
    }


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def _search(machine: MachineClient, data: Dataset, weights: str, tier: str) -> dict[str, Any]:
    fitness = _fitness(data, 64)
    embed = lambda texts: machine.embed(texts).vectors  # noqa: E731

    def held_out() -> dict[str, float]:
        report = retrieval_report(embed, data.held_out, temperature=0.05, document_chars=DOCUMENT_CHARACTERS)
        return {metric: report.mean(metric) for metric in ("mrr@10", "recall@1", "loss")}

    strategy = make("antithetic_es", machine.tensors(), STANDARD_TIERS[tier], 1)
    before, evaluations, started = held_out(), 0, time.monotonic()
    for generation in range(GENERATIONS):
        pairs, base = fitness.batch(generation), machine.hello().generation
        for proposal in strategy.ask():
            changed = True
            try:
                if proposal.edits:
                    machine.mutate(proposal.edits, confidence=1.0)
            except RequestRefusedError:
                changed = False
            strategy.tell(proposal.id, Verdict(fitness.evaluate(embed, pairs).score))
            evaluations += 1
            if proposal.edits and changed:
                machine.rollback(base)
        move = strategy.move()
        if move is not None:
            machine.mutate(move.edits, confidence=1.0)
        strategy.settle(move is not None)
    seconds = round(time.monotonic() - started, 1)
    what = {"weights": weights, "tier": tier, "evaluations": evaluations, "seconds": seconds}
    return {**what, "before": before, "after": held_out()}


if __name__ == "__main__":
    main()
