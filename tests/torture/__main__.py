"""`python -m tests.torture [--cycles N] [--hours H] [--seed S] [--from N]`: zero wrong bytes, or how to reproduce.

Every cycle applies random edits to every type of tensor, predicts each reply and each byte with the numpy twin, and
rolls back. The exit code is 1 at the first deviation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.torture.draws import draw_cycle
from tests.torture.model import tensors
from tests.torture.recipes import recipe
from tests.torture.run import EPOCH, CycleFailedError, TorturePlan, torture
from tests.torture.tally import Tally, progress, summary

_CYCLES = 100_000
_SAY_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested cycles."""
    arguments = _arguments(argv)
    seconds = arguments.hours * 3600 if arguments.hours else None
    cycles = arguments.cycles if arguments.cycles or not seconds else None
    plan = TorturePlan(arguments.seed, arguments.first, cycles or (None if seconds else _CYCLES), seconds)
    started = time.monotonic()
    said = started

    def say(tally: Tally) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAY_SECONDS:
            said = time.monotonic()
            _write(progress(tally, said - started, cycles=plan.cycles))

    _write(f"seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            tally = torture(Path(folder), plan, on_progress=say)
        except CycleFailedError as failed:
            _write(explain(failed, plan.seed))
            return 1
    print(summary(tally, time.monotonic() - started))
    return 0


def explain(failed: CycleFailedError, seed: int) -> str:
    """The failure, the edits of its cycle as recipes, and the commands to reproduce it."""
    cycle = draw_cycle(seed, failed.cycle, tensors(seed))
    what = [f"{draft.defect or 'edits'}: {recipe(draft.edits)}" for draft in cycle.drafts]
    replay = f"replay (from cycle {failed.cycle - failed.cycle % EPOCH} on):"
    command = f"python -m tests.torture --seed {seed} --from {failed.cycle} --cycles 1"
    all_of_it = f"python -m tests.torture --seed {seed} --cycles {failed.cycle + 1}"
    again = [replay, f"  {command}", "or, if it depends on earlier cycles:", f"  {all_of_it}"]
    return "\n".join([f"DEVIATION, seed {seed}, {failed}", *what, *again])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description="Every byte of every change predicted."
    )
    parser.add_argument(
        "--cycles", type=int, metavar="N", help=f"number of cycles ({_CYCLES:,}, or as many as --hours allow)"
    )
    parser.add_argument("--hours", type=float, metavar="H", help="time limit in hours")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random numbers (1)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="the first cycle (0)")
    return parser.parse_args(argv)


def _write(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
