"""Compares our search with random search, (1+1)-ES, OpenAI-ES and CMA-ES on the same model, at equal evaluations.

    python -m tests.studies.comparison [--weights F16 Q8_0] [--evaluations 320] [--lists FOLDER] [-o FILE]

Every contender is an EvolutionDaemonV7 on a file, with the same data, the same judge and the same limits; it differs in
what its line of `CONTENDERS` says. Each goes on in steps, and after each step the model as it is then is scored on the
held-out pairs, which no search ever sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolution.daemon import events as e
from evolution.daemon.body import FileBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness.contract import Dataset
from evolution.fitness.report import METRICS, Report, compare, retrieval_report
from evolution.fitness.retrieval import NEIGHBOURS, RetrievalFitness
from evolution.strategies.tiers import STANDARD_TIERS, Tier
from tests.studies.models import FOLDER, data_set, model_file, shadow

DOCUMENT_CHARACTERS = 200
TEMPERATURE = 0.05
SEED = 1
EVERYTHING = Tier("everything", "normal", ("blk.*", "token_embd_norm.*"), sigma=3e-3)
"""OpenAI-ES as published changes all parameters."""


@dataclass(frozen=True)
class Contender:
    """A search: strategy, tier, options of the strategy, and how many neighbours its batches have."""

    name: str
    strategy: str
    tier: Tier
    options: Mapping[str, Any] = field(default_factory=dict)
    neighbours: int = NEIGHBOURS


NORMS = STANDARD_TIERS["norms"]
CONTENDERS = (
    Contender("ours", "antithetic_es", NORMS),
    Contender("OpenAI-ES, our tier", "antithetic_es", NORMS, {"momentum": 0.0, "shaping": "ranks"}, neighbours=0),
    Contender(
        "OpenAI-ES, all weights", "antithetic_es", EVERYTHING, {"momentum": 0.0, "shaping": "ranks"}, neighbours=0
    ),
    Contender("CMA-ES", "cma_es", NORMS, {"directions": 32, "population": 32}),
    Contender("(1+1)-ES", "one_plus_one", NORMS),
    # Of the sizes in the feasibility study the one whose best of 31 is best.
    Contender("random search", "random_search", dataclasses.replace(NORMS, sigma=0.03), {"proposals": 31}),
)


def main() -> None:
    """Run the contenders and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["F16", "Q8_0"])
    parser.add_argument("--evaluations", type=int, default=320)
    parser.add_argument("--steps", type=int, default=4, help="number of times that the held-out pairs are scored")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--lists", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evolution.json"))
    arguments = parser.parse_args()
    data = data_set(arguments.lists) if arguments.lists else data_set()
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "kernel": platform.release()}
    found: dict[str, Any] = {
        "machine": machine,
        "data": {"source": data.source, "sha256": data.sha256, "held_out": len(data.held_out)},
        "settings": {"seed": SEED, "temperature": TEMPERATURE, "document_characters": DOCUMENT_CHARACTERS},
        "runs": [],
    }
    for weights in arguments.weights:
        before = _held_out(model_file(weights), data)
        for contender in CONTENDERS:
            if not arguments.only or contender.name in arguments.only:
                found["runs"].append(
                    _run(contender, weights, data, before, evaluations=arguments.evaluations, steps=arguments.steps)
                )
                arguments.output.write_text(json.dumps(found, indent=1) + "\n")
        versus([run for run in found["runs"] if run["weights"] == weights], data)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def versus(runs: Sequence[dict[str, Any]], data: Dataset) -> None:
    """Add to each run but the first the comparison of its final model with that of the first, on the held-out pairs."""
    ours, *others = (_held_out(_final_model(run["weights"], run["contender"]["name"]), data) for run in runs)
    for run, theirs in zip(runs[1:], others, strict=True):
        differences = {name: compared.difference for name, compared in compare(theirs, ours).items()}
        run["first_over_this"] = {name: _interval(interval) for name, interval in differences.items()}


def _folder(weights: str, contender: str) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in contender)
    return FOLDER / "comparison" / f"{weights}-{name}"


def _final_model(weights: str, contender: str) -> Path:
    evolved = _folder(weights, contender) / "evolved.gguf"
    return evolved if evolved.exists() else model_file(weights)  # no move was accepted


def _run(
    contender: Contender, weights: str, data: Dataset, before: Report, *, evaluations: int, steps: int
) -> dict[str, Any]:
    folder = _folder(weights, contender.name)
    shutil.rmtree(folder, ignore_errors=True)
    fitness = RetrievalFitness(
        data.search,
        seed=SEED,
        temperature=TEMPERATURE,
        document_chars=DOCUMENT_CHARACTERS,
        neighbours=contender.neighbours,
    )
    curve = [_point(0, 0, 0.0, before, before)]
    generations: list[e.GenerationEnded] = []
    judged: list[e.Judged] = []
    spent = 0.0

    def listen(event: e.DaemonEvent) -> None:
        if isinstance(event, e.GenerationEnded):
            generations.append(event)
        elif isinstance(event, e.Judged):
            judged.append(event)

    for step in range(1, steps + 1):
        daemon = EvolutionDaemonV7(
            FileBody(model_file(weights), folder / "evolved.gguf"),
            model_file(weights),
            fitness,
            StrategyPlan(contender.strategy, (contender.tier,), SEED, contender.options),
            folder / "run",
            config=DaemonConfig(max_evaluations=evaluations * step // steps, mode="file", barren_generations=10**6),
            listeners=[listen],
        )
        started = time.monotonic()
        stopped = daemon.run()
        spent += time.monotonic() - started
        report = _held_out(daemon.result, data)
        curve.append(_point(stopped.evaluations, stopped.accepted, spent, before, report))
        print(weights, contender.name, curve[-1], flush=True)
    outside = sum(event.seconds_outside_evaluation for event in generations)
    return {
        "weights": weights,
        "contender": dataclasses.asdict(contender),
        "curve": curve,
        "generations": len(generations),
        "judged": len(judged),
        "accepted": sum(event.accepted for event in generations),
        "seconds": spent,
        "seconds_in_generations": sum(event.seconds for event in generations),
        "seconds_outside_evaluation": outside,
        "model": stopped.model,
    }


def _held_out(model: Path, data: Dataset) -> Report:
    with shadow(model) as machine:
        return retrieval_report(
            lambda texts: machine.embed(texts).vectors,
            data.held_out,
            temperature=TEMPERATURE,
            document_chars=DOCUMENT_CHARACTERS,
        )


def _point(evaluations: int, accepted: int, seconds: float, before: Report, after: Report) -> dict[str, Any]:
    found = compare(before, after)
    metrics = {name: {key: _interval(value) for key, value in vars(found[name]).items()} for name in METRICS}
    return {"evaluations": evaluations, "accepted": accepted, "seconds": round(seconds, 1), "metrics": metrics}


def _interval(interval: Any) -> list[float]:
    return [round(number, 6) for number in (interval.value, interval.low, interval.high)]


if __name__ == "__main__":
    main()
