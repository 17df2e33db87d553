"""`vboot build`: the whole image."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.cache import open_cache
from builder.executable import executable_path
from builder.pipeline import StepResult
from builder.pipeline import run as run_steps
from builder.plan import TENSORS_NAME, plan_build
from builder.reproducible import build_again, compare
from builder.settings import SETTINGS, Config
from builder.steps import Step
from cli.answer import Answer, columns, human_bytes
from cli.capabilities import capability_rows
from cli.progress import reported, stderr_reporter
from cli.settings_flags import add_settings, read_config
from vboot.check import check_file
from vboot.text import path_json, path_text

VERB = "build"
OUTPUT = "image.output"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="print what would be done and why; write nothing")
    only.add_argument(
        "--check-reproducible", action="store_true", help="build a second time in another folder and compare the files"
    )
    add_settings(parser, verb=VERB)


def run(arguments: argparse.Namespace) -> Answer:
    """Build what has changed."""
    config = read_config(arguments)
    answer = run_plan(plan_build(config), folder=config.image.output, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        answer = _with_capabilities(answer, config.image.output / TENSORS_NAME)
    return _checked(answer, config) if arguments.check_reproducible else answer


def _with_capabilities(answer: Answer, tensors: Path) -> Answer:
    """Add what the machine will be able to do, as the executable says of the composed file."""
    capabilities = check_file(executable_path(), tensors)["capabilities"]
    text = f"{answer.text}\n{columns(capability_rows(capabilities))}"
    return replace(answer, data={**answer.data, "capabilities": capabilities}, text=text)


def _checked(answer: Answer, config: Config) -> Answer:
    """Build a second time and add what differs to the answer."""
    with tempfile.TemporaryDirectory(prefix="vboot-") as folder, reported("second build") as progress:
        second = build_again(_words(config), folder=Path(folder), progress=progress)
        different = compare(config.image.output, second)
    rows = [{"file": pair.name, "first": pair.first, "second": pair.second} for pair in different]
    said = [f"{pair.name} differs: {pair.first[:16]}... and {pair.second[:16]}..." for pair in different]
    text = "\n".join([answer.text, *(said or ["reproducible: the second build gave the same bytes"])])
    return Answer({**answer.data, "reproducible": not rows, "differences": rows}, text, exit_code=1 if rows else 0)


def _words(config: Config) -> list[str]:
    """The settings of a build as flags that mean the same in any folder, the output apart."""
    words: list[str] = []
    for setting in SETTINGS:
        value = getattr(getattr(config, setting.section), setting.key)
        if VERB not in setting.verbs or setting.name == OUTPUT or value is None:
            continue
        named_file = isinstance(value, Path) or (isinstance(value, str) and Path(value).is_file())
        words += [setting.flag, str(Path(value).resolve() if named_file else value)]
    return words


def run_plan(steps: Sequence[Step], *, folder: Path, dry_run: bool) -> Answer:
    """Run steps with the cache of the output `folder` and describe what came of it."""
    started = time.monotonic()
    with open_cache(folder, writing=not dry_run) as cache:
        results = run_steps(steps, cache=cache, dry_run=dry_run, reporter=stderr_reporter())
        hashes = {} if dry_run else {path: cache.sha256(path) for result in results for path in result.outputs}
    seconds = time.monotonic() - started
    data: dict[str, Any] = {
        "output": folder,
        "dry_run": dry_run,
        "steps": [{"name": r.name, "ran": r.ran, "reason": r.reason, "seconds": round(r.seconds, 3)} for r in results],
        "files": {path_json(path): {"bytes": path.stat().st_size, "sha256": sha256} for path, sha256 in hashes.items()},
        "seconds": round(seconds, 3),
    }
    return Answer(data, _dry_text(results) if dry_run else _text(results, hashes, seconds))


def _dry_text(results: Sequence[StepResult]) -> str:
    return columns((r.name, "would run" if r.ran else "skip", r.reason) for r in results)


def _text(results: Sequence[StepResult], hashes: dict[Path, str], seconds: float) -> str:
    files = columns((path_text(path), human_bytes(path.stat().st_size), sha256) for path, sha256 in hashes.items())
    ran = sum(result.ran for result in results)
    return f"{files}\n{ran} of {len(results)} steps ran in {seconds:.1f} s"
