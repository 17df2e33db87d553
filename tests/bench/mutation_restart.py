"""How long a worker that crashed is gone after all weights were changed."""

from __future__ import annotations

import time
from functools import partial

from tests.bench.mutation_machines import UNIX, Connected, booted, build_image, local
from tests.bench.report import quantity
from tests.bench.results import Case, Result, Setting, at_most
from vboot.weights.edits import Seeded

OURS, EMULATED = "vector_boot", "emulated machine"
_GOOD_LIFE_SECONDS = 1.2
"""Workers that live shorter are started again later and later."""
_GOAL_SECONDS = 0.3
_HOW = (
    "minilm in F16, energy unlimited, noise on 1 % of all weights (`*.weight`) by a seeded recipe. A sample is the time"
    " from asking the worker to crash (`fault`, a segmentation fault) to the reply to `hello`, with the generation"
    " back: a new worker has opened the model and applied the recipes of the journal again. 0 mutations: the model"
    " alone."
)


def run(setting: Setting) -> Result:
    """Measure a local machine and a virtual one. Raises VbootError."""
    setting.say("building an image of minilm in F16")
    image = build_image(setting.folder / "image", model_type="F16")
    restarts = setting.choose(full=7, quick=1)
    with local(image / "vectorland.gguf") as line:
        cases = [_case(setting, UNIX, line, mutations, restarts) for mutations in (0, 1, 3)]
    with booted(image, accel="tcg", append="vector_boot.fault=1") as line:
        cases += [_case(setting, EMULATED, line, mutations, restarts) for mutations in (0, 1)]
    goal = at_most(cases[1].name, cases[1].summary().median, _GOAL_SECONDS, shown=partial(quantity, unit="s"))
    return Result("Restart of the worker", _HOW, tuple(cases), (goal,), {})


def _case(setting: Setting, name: str, line: Connected, mutations: int, restarts: int) -> Case:
    setting.say(f"{name}, {mutations} mutations")
    while (generation := line.machine.hello().generation) < mutations:
        edit = Seeded("*.weight", f"{generation:016x}", "normal", 0.01, 0.001)
        line.machine.mutate([edit], confidence=0.9, base_generation=generation)
    samples = []
    for _ in range(restarts):
        time.sleep(_GOOD_LIFE_SECONDS)
        worker = line.machine.stats().worker.pid
        start = time.perf_counter()
        line.machine.fault("segv")
        found = line.machine.hello().generation
        samples.append(time.perf_counter() - start)
        assert line.machine.stats().worker.pid != worker, "the worker has not crashed"
        assert found == mutations, "a restart lost changes"
    return Case(f"{name}, {mutations} mutations", "s", {OURS: tuple(samples)})
