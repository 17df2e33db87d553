"""Run the study and print its tables: `python -m tests.studies.ctrm --lists DIR F16=model.gguf=140 ...`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from evolution.ctrm.reliability import reliability_svg
from evolution.fitness.debian import APT_LISTS, SOURCE, read_pairs
from evolution.fitness.retrieval import RetrievalFitness
from evolution.fitness.split import split
from tests.studies.ctrm import tables
from tests.studies.ctrm.draws import draws
from tests.studies.ctrm.rows import Row, measure_rows
from vboot.client.bridge import RustNeuralBridge
from vboot.errors import VbootError
from vboot.files import atomic_write

_BLOCK = 64
_BLOCKS = 9
_CHARACTERS = 40
_SEED = 6


def main() -> int:
    """Measure, write rows and plot if requested, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.ctrm", description=__doc__)
    parser.add_argument(
        "models", nargs="*", metavar="NAME=FILE=CANDIDATES", help="a GGUF file and the number of candidates"
    )
    parser.add_argument("--lists", type=Path, default=APT_LISTS, help="folder of apt's package lists")
    parser.add_argument("--rows", type=Path, help="file of rows: written, or read when no model is given")
    parser.add_argument("--plot", type=Path, help="SVG to write")
    arguments = parser.parse_args()
    try:
        rows = _measured(arguments.models, arguments.lists) if arguments.models else _read(arguments.rows)
        if arguments.models and arguments.rows:
            with atomic_write(arguments.rows) as file:
                file.write(json.dumps([dataclasses.asdict(row) for row in rows]).encode())
        computed, corrected = tables.halves(rows)
        named = [("as computed", computed), ("corrected", corrected)]
        if arguments.plot:
            with atomic_write(arguments.plot) as file:
                file.write(reliability_svg("Confidence against what came of it", tables.bins_of(named)).encode())
        print(tables.tiers(rows), tables.norms(rows), tables.values(rows), tables.scores(named), sep="\n")
        print(tables.reliability_table(tables.bins_of(named)))
    except VbootError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _measured(models: list[str], lists: Path) -> list[Row]:
    search = split(read_pairs(lists), source=SOURCE).search
    fitness = RetrievalFitness(search, seed=_SEED, batch_size=_BLOCK, document_chars=_CHARACTERS)
    blocks = [search.train[start : start + _BLOCK] for start in range(0, _BLOCK * _BLOCKS, _BLOCK)]
    rows: list[Row] = []
    for model in models:
        name, path, count = model.split("=")
        started = time.monotonic()
        with RustNeuralBridge(timeout=60.0, energy=False) as bridge:
            bridge.initialize(Path(path))
            with bridge.client() as machine:
                some = draws(machine.tensors(), int(count), seed=_SEED)
            for row in measure_rows(bridge, name, some, fitness, blocks):
                rows.append(row)
                progress = f"{len(rows)} {name} {row.tier} {row.size:.2g}: fall {row.fall:+.3f}"
                print(f"{progress}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _read(path: Path | None) -> list[Row]:
    entries = json.loads(path.read_bytes()) if path else []
    return [Row(**{**entry, "blocks": tuple(map(tuple, entry["blocks"]))}) for entry in entries]


if __name__ == "__main__":
    sys.exit(main())
