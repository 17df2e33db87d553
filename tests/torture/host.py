"""Crash tests of the journal on the host: levels A, B, C and G of docs/proof.md.

    python -m tests.torture.host [--levels ABCG] [--states N] [--seed S] [--jobs J]

They are run by `vector_boot/examples/journal_torture`, which drives the machine's history over a simulated disk. One
line is printed for each level; the exit code is 1 after a violation.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LEVELS = "ABCG"
_FEATURES = "standalone,planted"
_PROFILE = "torture"
# How the names begin of what became of a process without memory.
_SORT = "allocation: "


def build() -> Path:
    """Build the program. Returns its path."""
    manifest = ROOT / "vector_boot" / "Cargo.toml"
    # A folder of its own: the executable of a release must never be built with planted bugs.
    target = ROOT / "build" / "torture"
    command = ["cargo", "build", "--quiet", "--profile", _PROFILE, "--locked", "--example", "journal_torture"]
    command += ["--features", _FEATURES, "--manifest-path", str(manifest), "--target-dir", str(target)]
    subprocess.run(command, check=True)
    return target / _PROFILE / "examples" / "journal_torture"


def _without_dumps() -> None:
    # In level B thousands of processes abort.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(program: Path, level: str, states: int, seed: int, jobs: int | None = None) -> Mapping[str, Any]:
    """What a level tells; `passed` says whether there was no violation."""
    command = [str(program), "--level", level, "--states", str(states), "--seed", str(seed)]
    command += [] if jobs is None else ["--threads", str(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_without_dumps)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return {**json.loads(done.stdout), "passed": done.returncode == 0}


def line(told: Mapping[str, Any]) -> str:
    """The result of a level as one line."""
    what = f"level {told['level']}, seed {told['seed']}, {told['seconds']:.0f} s"
    if told["level"] != "G":
        bad = f": {told['violations'][0]}" if told["violations"] else ""
        sort = ", ".join(
            f"{count:,} {step.removeprefix(_SORT)}" for step, count in told["done"].items() if _SORT in step
        )
        sorts = f" (allocations: {sort})" if sort else ""
        return f"{what}: {told['states']:,} states{sorts}, {len(told['violations'])} violations{bad}"
    missed = [each["bug"] for each in told["planted"] if each["found"] is None]
    clean = f"{len(told['clean']['violations'])} violations without a bug"
    found = f"{len(told['planted']) - len(missed)} of {len(told['planted'])} planted bugs found"
    return f"{what}: {clean}, {found}" + (f", not {', '.join(missed)}" if missed else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the levels."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.host", description="Crash tests on the host.")
    parser.add_argument("--levels", default=LEVELS, help=f"which ({LEVELS})")
    parser.add_argument("--states", type=int, default=1_000_000, metavar="N", help="states of A, and a limit")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of all random numbers (1)")
    parser.add_argument("--jobs", type=int, metavar="J", help="threads (one for each core)")
    arguments = parser.parse_args(argv)
    program, passed = build(), True
    for level in arguments.levels:
        told = run(program, level, arguments.states, arguments.seed, arguments.jobs)
        passed = passed and told["passed"]
        print(line(told), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
