"""`vboot prune`: remove the run folders of machines that have ended, except the newest."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.answer import Answer
from cli.option_types import count, path
from qemu import registry
from qemu.pruning import damaged_runs, ended_runs, remove_run
from qemu.run_folder import RUNS
from vboot.text import path_text

_KEEP = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "folder", nargs="?", type=path, default=RUNS, metavar="DIR",
        help="the folder that holds run folders (default: build/run)",
    )  # fmt: skip
    parser.add_argument("--keep", type=count, default=_KEEP, metavar="N", help=f"how many to keep (default {_KEEP})")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")


def run(arguments: argparse.Namespace) -> Answer:
    """Remove them. Machines that run or start are left alone, and so is what is no run folder, or holds other files."""
    ended = ended_runs(arguments.folder)
    old = ended[arguments.keep :]
    if arguments.dry_run:
        return _answer(arguments.folder, old, [], len(ended), dry_run=True)
    removed, left = [], []
    for each in old:
        if remove_run(each):
            registry.forget(each)
            removed.append(each)
        else:
            left.append(each)
    return _answer(arguments.folder, removed, left, len(ended), dry_run=False)


def _answer(folder: Path, removed: list[Path], left: list[Path], ended: int, *, dry_run: bool) -> Answer:
    word = "would be removed" if dry_run else "removed"
    lines = [f"{path_text(each)} {word}" for each in removed]
    damaged = damaged_runs(folder)
    lines += [f"left {path_text(each)}: its machine.json is damaged; remove it by hand" for each in damaged]
    lines += [f"{path_text(each)} stays: it holds other files, or runs again" for each in left]
    many = f"{len(removed)} of {ended} run folder{'s' if ended != 1 else ''}"
    lines.append(f"{many} of machines that have ended {word} from {path_text(folder)}")
    data = {"removed": removed, "left": left, "damaged": damaged, "ended": ended, "dry_run": dry_run}
    return Answer(data, "\n".join(lines))
