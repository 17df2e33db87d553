"""`vboot bench`: the benchmarks of the checkout."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from vboot.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run only these benchmarks")
    parser.add_argument("--quick", action="store_true", help="take fewer and smaller samples")


def run(arguments: argparse.Namespace) -> Answer:
    """Run them; exit code 1 if one could not run. A whole run writes docs/benchmarks.md and docs/benchmarks.json."""
    try:
        from tests.bench.__main__ import BENCHMARKS, main
    except ImportError as error:
        raise InputError("the benchmarks are not installed", remedy="run vboot bench in a checkout") from error
    unknown = sorted(set(arguments.only) - BENCHMARKS.keys())
    if unknown:
        raise InputError(f"there is no benchmark {unknown[0]!r}", remedy=f"use {', '.join(BENCHMARKS)}")
    words = [*(["--only", *arguments.only] if arguments.only else []), *(["--quick"] if arguments.quick else [])]
    code = main(words)
    whole = not words
    text = (
        "the results are in docs/benchmarks.md"
        if whole and code == 0
        else "no results were written, as not all benchmarks ran"
    )
    return Answer({"ok": code == 0, "whole": whole}, text, exit_code=code)
