"""Runs the benchmarks: `python -m tests.bench [--json FILE] [--only NAME ...] [--quick]`.

Only a whole run, neither `--quick` nor `--only`, writes docs/benchmarks.json and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qemu.accel import select
from tests.bench.host import REPOSITORY, describe_host
from tests.bench.report import render, render_plain
from tests.bench.results import Result, Setting, to_json
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
    "embed": "inference_speed",
    "embed-start": "inference_start",
    "embed-text": "inference_text",
    "bridge": "bridge_calls",
    "evolve": "evolution_rates",
    "evolve-paths": "evolution_paths",
}
"""Every benchmark's name and its module, which has `run(setting) -> Result`."""

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
        _DOCS.mkdir(exist_ok=True)
        _write_json(_DOCS / "benchmarks.json", data)
        _write(_DOCS / "benchmarks.md", render(results, host=host))
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures us beside our peers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="fewer samples of less work, to see that all of it runs")
    return parser.parse_args(argv)


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
