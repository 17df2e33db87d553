"""`python -m tests.torture.together [--minutes M] [--tiny]`: several programs use one booted machine at the same time.

Two shells, a loop that embeds and an evolve run work on one machine. Each must make progress, none may fail, and the
heartbeat's lateness is compared with that of the same machine before they started. The exit code is 1 after an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_VBOOT = (sys.executable, "-m", "builder")
_QUIET_S = 20.0
"""Seconds for which the machine is left alone, to know its lateness without clients."""
_THINGS = (
    "a red house",
    "an old tree",
    "the warm sofa",
    "some rain",
    "a fast train",
    "two cats",
    "cold tea",
    "the sea",
)
_SCRIPTS = (
    "stats\ntensors\ndigest\nhistory\nembed 'a cat on a mat'\n",
    "hello\nstats --json\nsimilarity 'a cat' 'a kitten'\nread token_embd.weight 0 64\n",
)


@dataclass
class Work:
    """What one of the programs has done."""

    name: str
    done: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: what each program did, and the heartbeat's p99 lateness in microseconds."""

    work: tuple[Work, ...]
    alone_us: int
    together_us: int

    @property
    def is_good(self) -> bool:
        """Whether every program made progress and none failed."""
        return all(work.done and not work.errors for work in self.work)


def use_together(run: Path, folder: Path, *, minutes: float, model: str, quiet_s: float = _QUIET_S) -> Outcome:
    """Work on the machine of `run` for so many minutes; files are put into `folder`."""
    time.sleep(quiet_s)
    alone = _lateness(run)
    until = time.monotonic() + 60 * minutes
    work = (Work("shell 1"), Work("shell 2"), Work("embed loop"), Work("evolve"))
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in _pairs()))
    evolve = [str(run), "--data", str(pairs), "--folder", str(folder / "evolve"), "--model", model]
    evolve += ["--minutes", str(minutes)]
    jobs: list[Callable[[], None]] = [
        lambda: _repeat(work[0], until, ("shell", str(run)), _SCRIPTS[0]),
        lambda: _repeat(work[1], until, ("shell", str(run)), _SCRIPTS[1]),
        lambda: _repeat(work[2], until, ("embed", str(run), "a cat on a mat", "a kitten on a rug"), ""),
        lambda: _evolve(work[3], evolve),
    ]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Outcome(work, alone, _lateness(run))


def _pairs() -> list[dict[str, str]]:
    return [
        {"query": f"{_THINGS[n % 8]} {n}", "document": f"{_THINGS[n % 8]} near {_THINGS[n * 3 % 7]} {n}"}
        for n in range(200)
    ]


def _vboot(*words: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_VBOOT, *words], input=script, capture_output=True, text=True, check=False)


def _lateness(run: Path) -> int:
    done = _vboot("shell", str(run), script="stats --json\n")
    return int(json.loads(done.stdout.splitlines()[-1])["heartbeat_late_us"]["p99"])


def _repeat(work: Work, until: float, words: Sequence[str], script: str) -> None:
    while not work.done or time.monotonic() < until:
        done = _vboot(*words, script=script)
        if done.returncode == 0:
            work.done += 1
        else:
            work.errors.append(done.stderr.strip() or f"exit code {done.returncode}")
            if not work.done:
                return


def _evolve(work: Work, words: Sequence[str]) -> None:
    """Evolve for the given time. Its progress is the number of generations."""
    done = _vboot("--json", "evolve", *words, "--batch", "8", "--no-report")
    if done.returncode:
        work.errors.append(done.stderr.strip() or f"exit code {done.returncode}")
        return
    work.done = int(json.loads(done.stdout)["generations"])


def report(outcome: Outcome) -> str:
    """The outcome, for people."""
    lines = [f"{work.name}: {work.done} done, {len(work.errors)} failed" for work in outcome.work]
    lines += sorted({f"{work.name}: {error}" for work in outcome.work for error in work.errors})
    lines.append(f"heartbeat lateness p99: {outcome.alone_us} us alone, {outcome.together_us} us with the clients")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Boot a machine, use it, and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.together", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true", help="the tiny model instead of MiniLM")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="together-") as name:
        folder = Path(name)
        image, run = folder / "image", folder / "run"
        model = "tiny" if arguments.tiny else "minilm"
        booted = _vboot("--json", "boot", "--detach", "--run", str(run), "--model", model, "--output", str(image))
        if booted.returncode:
            print(booted.stderr, file=sys.stderr)
            return 1
        try:
            outcome = use_together(run, folder, minutes=arguments.minutes, model=str(image / "vectorland.gguf"))
        finally:
            _vboot("stop", str(run))
    print(report(outcome))
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
