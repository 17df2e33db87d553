"""Runs the benchmarks: `python -m tests.bench [--json FILE] [--only NAME ... [--update]] [--quick]`.

A whole run, neither `--quick` nor `--only`, writes docs/benchmarks.json and docs/benchmarks.md; with `--update`, some
benchmarks replace their results there, marked as those of a run of their own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qemu.accel import select
from tests.bench.host import REPOSITORY, describe_host
from tests.bench.report import render, render_plain
from tests.bench.results import Result, Setting, from_json, to_json
from vboot.errors import VbootError
from vboot.files import atomic_write

BENCHMARKS: Mapping[str, str] = {
    "gguf": "gguf_open",
    "compose": "composition",
    "size": "executable_size",
    "boot": "boot",
    "initramfs": "initramfs_writer",
    "build": "image_build",
    "mutate": "mutation_latency",
    "mutate-bytes": "mutation_bytes",
    "mutate-recipes": "mutation_recipes",
    "mutate-restart": "mutation_restart",
    "mutate-model": "mutation_whole_model",
    "mutate-growth": "mutation_growth",
    "durable": "durable_latency",
    "recovery": "recovery_time",
    "reload": "reload_gap",
    "beat-load": "beat_load",
    "embed": "inference_speed",
    "embed-start": "inference_start",
    "embed-text": "inference_text",
    "bridge": "bridge_calls",
    "evolve": "evolution_rates",
    "evolve-paths": "evolution_paths",
}
"""Every benchmark's name and its module, which has `run(setting) -> Result`."""

_OF_A_RUN = ("date", "commit", "kernel", "load at the start")
"""What of the host may differ between two runs on the same machine."""
_DOCS = REPOSITORY / "docs"
_SCRATCH = REPOSITORY / "build"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested benchmarks; the exit code is 0 when all ran, whether their goals are met or not."""
    arguments = _arguments(argv)
    host = describe_host(select("auto"))
    _SCRATCH.mkdir(exist_ok=True)
    results: list[Result] = []
    failed = False
    # On the checkout's own disk: the temporary folder may be in memory.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_SCRATCH) as scratch:
        for name in arguments.only or BENCHMARKS:
            folder = Path(scratch, name)
            folder.mkdir()
            result = _run(name, Setting(arguments.quick, folder, partial(_say, name)))
            failed |= result is None
            results += [result] if result else []
    data = {"host": host, "quick": arguments.quick, "benchmarks": [to_json(result) for result in results]}
    if arguments.json:
        _write_json(arguments.json, data)
    if not failed and not arguments.quick and not arguments.only:
        _publish(results, host)
    if arguments.update:
        _update(results, host)
    return 1 if failed else 0


def _publish(results: Sequence[Result], host: Mapping[str, str]) -> None:
    _DOCS.mkdir(exist_ok=True)
    benchmarks = [to_json(result) for result in results]
    _write_json(_DOCS / "benchmarks.json", {"host": host, "quick": False, "benchmarks": benchmarks})
    _write(_DOCS / "benchmarks.md", render(results, host=host))


def _update(results: Sequence[Result], host: Mapping[str, str]) -> None:
    """Put these results in the place of earlier ones with their titles, or behind all others."""
    known = json.loads((_DOCS / "benchmarks.json").read_text())
    by_title = {data["title"]: from_json(data) for data in known["benchmarks"]}
    measured = ", ".join(f"{what} {host[what]}" for what in _OF_A_RUN)
    by_title |= {result.title: replace(result, measured=measured) for result in results}
    _publish(list(by_title.values()), known["host"])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures us beside our peers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--update", action="store_true", help="with --only: replace their results in docs/benchmarks.md"
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples of less work, to see that all of it runs")
    arguments = parser.parse_args(argv)
    if arguments.update and (arguments.quick or not arguments.only):
        parser.error("--update needs --only, and no --quick: a whole run writes the page itself")
    return arguments


def _run(name: str, setting: Setting) -> Result | None:
    """One benchmark, its result printed; None if it failed, so that the others still run."""
    try:
        result: Result = importlib.import_module(f"tests.bench.{BENCHMARKS[name]}").run(setting)
    except VbootError as error:
        details = [getattr(error, "stderr", ""), *getattr(error, "__notes__", ())]
        _say(name, "\n".join(filter(None, [f"failed: {error}", *details])))
        return None
    print(render_plain(result), flush=True)
    return result


def _say(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: {text}\n")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    _write(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    sys.exit(main())
