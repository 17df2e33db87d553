"""`python -m tests.torture.together [--minutes M] [--tiny]`: several programs use one booted machine at the same time.

Two shells that stay open, a loop that embeds and an evolve run work on one machine. Each must make progress, none may
fail, and the machine must beat in time: its lateness is measured while it is left alone, while one client embeds, and
while all work. The exit code is 1 after an error, or if one beat in a hundred is late by a whole period.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vboot.client.machine import connect
from vboot.protocol.messages import HeartbeatEvent

_VBOOT = (sys.executable, "-m", "builder")
_QUIET_S = 20.0
"""Seconds of the phases before all clients work."""
_PERIOD_US = 100_000
"""Between two beats of the machine that is booted here."""
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
_ROUNDS = (
    ("stats", "tensors", "digest", "history", "embed 'a cat on a mat'"),
    ("hello", "stats --json", "similarity 'a cat' 'a kitten'", "read token_embd.weight 0 64"),
)
"""What the shells are asked, again and again."""
_MARK = "read kernel.0 0 1"
"""Asked last in each round: its answer shows that the round is over."""


@dataclass
class Work:
    """What one of the programs has done."""

    name: str
    done: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lateness:
    """The 99th percentile of the heartbeat's lateness in microseconds, in one phase."""

    phase: str
    p99_us: int


@dataclass(frozen=True)
class Outcome:
    """The result of a run: what each program did, and how late the machine beat."""

    work: tuple[Work, ...]
    lateness: tuple[Lateness, ...]

    @property
    def is_good(self) -> bool:
        """Whether every program made progress and none failed."""
        return all(work.done and not work.errors for work in self.work)

    def beats_in_time(self, period_us: int) -> bool:
        """Whether 99 of 100 beats of each phase were late by less than a period."""
        return all(phase.p99_us < period_us for phase in self.lateness)


def use_together(run: Path, folder: Path, *, minutes: float, model: str, quiet_s: float = _QUIET_S) -> Outcome:
    """Work on the machine of `run` for so many minutes, after two phases of `quiet_s`; files are put into `folder`."""
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in _pairs()))
    evolve = [str(run), "--data", str(pairs), "--folder", str(folder / "evolve"), "--model", model]
    evolve += ["--minutes", str(minutes)]
    work = (Work("shell 1"), Work("shell 2"), Work("embed loop"), Work("evolve"))

    def all_of_them(until: float) -> Sequence[threading.Thread]:
        return _started(
            lambda: _converse(work[0], until, run, _ROUNDS[0]),
            lambda: _converse(work[1], until, run, _ROUNDS[1]),
            lambda: _embed(work[2], until, run),
            lambda: _evolve(work[3], evolve),
        )

    lateness = (
        _during("alone", run, quiet_s, lambda _until: ()),
        _during("one client", run, quiet_s, lambda until: _started(lambda: _embed(Work("one client"), until, run))),
        _during("all clients", run, 60 * minutes, all_of_them),
    )
    return Outcome(work, lateness)


def _during(phase: str, run: Path, seconds: float, start: Callable[[float], Sequence[threading.Thread]]) -> Lateness:
    """Start a phase and wait for its end; the lateness of the beats meanwhile."""
    late: list[int] = []
    with connect(run) as machine:
        machine.subscribe(["heartbeat"])
        until = time.monotonic() + seconds
        threads = start(until)
        while any(thread.is_alive() for thread in threads) or time.monotonic() < until or not late:
            late += [event.late_us for event in machine.events(timeout=1.0) if isinstance(event, HeartbeatEvent)]
    return Lateness(phase, sorted(late)[max(0, math.ceil(0.99 * len(late)) - 1)])


def _started(*jobs: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def _pairs() -> list[dict[str, str]]:
    return [
        {"query": f"{_THINGS[n % 8]} {n}", "document": f"{_THINGS[n % 8]} near {_THINGS[n * 3 % 7]} {n}"}
        for n in range(200)
    ]


def _vboot(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_VBOOT, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _converse(work: Work, until: float, run: Path, commands: Sequence[str]) -> None:
    """Keep one shell open, and count the rounds that it answers."""
    words = [*_VBOOT, "--json", "shell", str(run)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert shell.stderr is not None
        while not work.done or time.monotonic() < until:
            shell.stdin.write("\n".join([*commands, _MARK]) + "\n")
            if not any('"tensor": "kernel.0"' in line for line in iter(shell.stdout.readline, "")):
                break  # it has ended, and says why
            work.done += 1
        _, errors = shell.communicate()
        work.errors += errors.splitlines()


def _embed(work: Work, until: float, run: Path) -> None:
    """Embed two texts by a new process each time."""
    while not work.done or time.monotonic() < until:
        done = _vboot("embed", str(run), "a cat on a mat", "a kitten on a rug")
        if done.returncode == 0:
            work.done += 1
            continue
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
    phases = ", ".join(f"{lateness.p99_us} us {lateness.phase}" for lateness in outcome.lateness)
    lines.append(f"heartbeat lateness p99: {phases}")
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
    return 0 if outcome.is_good and outcome.beats_in_time(_PERIOD_US) else 1


if __name__ == "__main__":
    sys.exit(main())
