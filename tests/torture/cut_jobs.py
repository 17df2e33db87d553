"""Campaigns side by side, each in a process of its own with its own seed; what they counted is added up.

Interrupted (SIGINT, SIGTERM), they end their machines and tell what they have done. A violation ends all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import Protocol

Say = Callable[[str], None]
_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Place:
    """Which of the jobs it is: its number of so many, and its seed."""

    index: int
    jobs: int
    seed: int

    def share(self, count: int) -> int:
        """Its part of `count`."""
        return count // self.jobs + (self.index < count % self.jobs)


class Job(Protocol):
    """What one process does in a folder of its own. `counted`: what happened."""

    counted: Counter[str]

    def work(self, place: Place, say: Say) -> None:
        """Do all of it. Raises an error for a violation."""
        ...

    def close(self) -> None:
        """End its machines."""
        ...


@dataclass(frozen=True)
class Done:
    """What came of a job. `problem`: in words, "" for none."""

    seed: int
    counted: Counter[str] = field(default_factory=Counter)
    problem: str = ""
    interrupted: bool = False


def parser(text: str | None) -> argparse.ArgumentParser:
    """With the options that all campaigns have."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1, help="that of the first job; each other has the next one")
    options.add_argument("--jobs", type=int, default=1, help="how many run side by side")
    options.add_argument("--image", type=Path, default=Path("build/test/tiny"))
    return options


def run_jobs(make: Callable[[Path, int], Job], *, seed: int, jobs: int) -> int:
    """Run the job that `make` makes of a folder and a seed so many times, print what happened; the exit code."""
    started = time.monotonic()
    before = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        done = _all_done(make, seed, jobs)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _told(done, seed=seed, jobs=jobs, seconds=time.monotonic() - started)


def _all_done(make: Callable[[Path, int], Job], seed: int, jobs: int) -> list[Done]:
    context = multiprocessing.get_context("fork")
    open_ends: dict[Connection, ForkProcess] = {}
    for index in range(jobs):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_run, args=(make, Place(index, jobs, seed + index), there))
        child.start()
        there.close()
        open_ends[here] = child
    done: list[Done] = []
    while open_ends:
        try:
            ready = wait(list(open_ends))
        except KeyboardInterrupt:
            _end(open_ends.values())
            continue
        for end in ready:
            assert isinstance(end, Connection)
            done.append(_result(end))
            open_ends.pop(end).join()
            if done[-1].problem:
                _end(open_ends.values())
    return done


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(make: Callable[[Path, int], Job], place: Place, end: Connection) -> None:
    for number in _ENDING:
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix=f"cuts-{place.seed}-"))
    started = time.monotonic()
    job, problem, interrupted = None, "", False

    def say(what: str) -> None:
        print(f"seed {place.seed}, {time.monotonic() - started:.0f} s: {what}", file=sys.stderr, flush=True)

    try:
        job = make(folder, place.seed)
        job.work(place, say)
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}; its files are in {folder}"
    finally:
        if job is not None:
            job.close()
    if not problem:
        shutil.rmtree(folder)
    end.send(Done(place.seed, job.counted if job else Counter(), problem, interrupted))


def _result(end: Connection) -> Done:
    try:
        done = end.recv()
    except EOFError:
        return Done(-1, problem="a job ended without a result")
    assert isinstance(done, Done)
    return done


def _end(children: Iterable[ForkProcess]) -> None:
    for child in children:
        child.terminate()


def _told(done: Sequence[Done], *, seed: int, jobs: int, seconds: float) -> int:
    counted = sum((each.counted for each in done), Counter[str]())
    problems = [each for each in done if each.problem]
    for each in problems:
        print(f"seed {each.seed}, cut {each.counted['cuts']}: {each.problem}", file=sys.stderr)
    seeds = f"seed {seed}" if jobs == 1 else f"seeds {seed} to {seed + jobs - 1}"
    interrupted = any(each.interrupted for each in done)
    early = ", interrupted" if interrupted and not problems else ""
    print(f"{seeds}: {shown(counted)}; {len(problems)} violations in {seconds:.0f} s{early}", flush=True)
    if problems:
        return 1
    return 128 + signal.SIGINT if interrupted else 0


def shown(counted: Counter[str]) -> str:
    """What happened, in words."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))
