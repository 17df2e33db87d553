"""`vboot build`: cold, with nothing changed, and with another model."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench.host import REPOSITORY
from tests.bench.report import quantity
from tests.bench.results import Case, Result, Setting, at_most
from vboot.errors import ToolError

COLD, WARM, CHANGED = "cold", "nothing changed", "another model"
_SECONDS = 3600.0
_HOW = (
    "Wall time of `python -m builder build`, which `make image` runs, in a new output folder for each turn: first"
    " everything for minilm (the executable is compiled and the downloads are there, so cargo and apt have nothing to"
    " do), then once more with nothing changed, then with `--model tiny`."
)


def run(setting: Setting) -> Result:
    """Measure the three builds in turns. Raises ToolError."""
    rounds = setting.choose(full=5, quick=1)
    setting.say("building once, so that the executable and the downloads are there")
    _build(setting.folder / "first", model="minilm")
    samples: dict[str, list[float]] = {COLD: [], WARM: [], CHANGED: []}
    for number in range(rounds):
        setting.say(f"round {number + 1} of {rounds}")
        output = setting.folder / f"image-{number}"
        for name, model in ((COLD, "minilm"), (WARM, "minilm"), (CHANGED, "tiny")):
            samples[name].append(_build(output, model=model))
    cases = tuple(Case(name, "s", {"vboot build": tuple(values)}) for name, values in samples.items())
    limit = at_most("nothing changed", cases[1].summary().median, 1.0, shown=lambda seconds: quantity(seconds, "s"))
    return Result("Build an image", _HOW, cases, (limit,), {})


def _build(output: Path, *, model: str) -> float:
    command = [sys.executable, "-m", "builder", "build", "--model", model, "--output", str(output)]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"the build of {model} did not end within {_SECONDS:g} s", command=command) from error
    seconds = time.perf_counter() - start
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        what = f"the build of {model} failed ({last})"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=done.stderr)
    return seconds
