"""How fast recipes become weights, against numpy."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from image.compose import compose
from tests.bench.mutation_machines import WEIGHT, Connected, local
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.sampling import alternate
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Edit, LowRank, Seeded, Sparse

OURS, TWIN = "vector_boot", "numpy twin"
_ROWS, _COLUMNS = 1536, 384
_RANK = 8
_SPARSE = 50_000
_HOW = (
    "minilm in Q8_0, energy unlimited: one edit of 384 x 1536 elements over a Unix socket, from the request to the"
    " reply, compared with the numpy twin computing the same bytes. Each change is rolled back before the next turn;"
    " that is not timed."
)


def run(setting: Setting) -> Result:
    """Measure each kind of edit. Raises VbootError."""
    model = compose("minilm", setting.folder / "minilm.gguf", type="Q8_0").path
    cases = []
    with local(model) as line:
        for name, edit in _recipes().items():
            setting.say(name)
            cases.append(_recipe_case(name, edit, line, setting.choose(full=15, quick=2)))
    facts = tuple(_per_element(case) for case in cases)
    return Result("Recipes", _HOW, tuple(cases), facts, {})


def _recipes() -> Mapping[str, Edit]:
    random = np.random.default_rng(2)
    a, b = (random.normal(0, 0.1, (size, _RANK)).astype(np.float32) for size in (_ROWS, _COLUMNS))
    indices = np.sort(random.choice(_ROWS * _COLUMNS, _SPARSE, replace=False)).astype(np.uint64)
    return {
        "seeded normal, all elements": Seeded(WEIGHT, "01" * 8, "normal", 1.0, 0.001),
        "seeded step, all elements": Seeded(WEIGHT, "02" * 8, "step", 1.0, 1),
        "seeded scale, all blocks": Seeded(WEIGHT, "03" * 8, "scale", 1.0, 0.01),
        f"low_rank, rank {_RANK}": LowRank(WEIGHT, 0.01, a, b),
        f"sparse, {_SPARSE:,} elements": Sparse(WEIGHT, "add", indices, np.full(_SPARSE, 0.01, np.float32)),
    }


def _per_element(case: Case) -> BenchFinding:
    elements = _SPARSE if case.name.startswith("sparse") else _ROWS * _COLUMNS
    ours, twin = (1e9 * case.summary(name).median / elements for name in (OURS, TWIN))
    return BenchFinding(case.name, f"{ours:.3g} ns an element, the twin {twin:.3g} ns")


def _recipe_case(name: str, edit: Edit, line: Connected, rounds: int) -> Case:
    info = line.machine.tensor(WEIGHT)
    held = {WEIGHT: TensorData(WEIGHT, info.type, info.shape, line.machine.read(WEIGHT).data)}

    def ours() -> float:
        generation = line.machine.hello().generation
        start = time.perf_counter()
        line.machine.mutate([edit], confidence=0.9, base_generation=generation)
        seconds = time.perf_counter() - start
        line.machine.rollback(generation)
        return seconds

    def twin() -> float:
        start = time.perf_counter()
        apply([edit], held, ())
        return time.perf_counter() - start

    return Case(name, "s", alternate({OURS: ours, TWIN: twin}, rounds=rounds, warm_up=1))
