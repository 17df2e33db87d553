"""`vboot build`: the whole image."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.cache import open_cache
from builder.cli.answer import Answer, columns, human_bytes
from builder.cli.progress import stderr_reporter
from builder.cli.settings_flags import add_settings, read_config
from builder.pipeline import StepResult
from builder.pipeline import run as run_steps
from builder.plan import plan_build
from builder.steps import Step


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and why, and do nothing")
    add_settings(parser, verb="build")


def run(arguments: argparse.Namespace) -> Answer:
    """Build what has changed."""
    config = read_config(arguments)
    return run_plan(plan_build(config), folder=config.image.output, dry_run=arguments.dry_run)


def run_plan(steps: Sequence[Step], *, folder: Path, dry_run: bool) -> Answer:
    """Run steps with the cache of the output `folder` and describe what came of it."""
    started = time.monotonic()
    with open_cache(folder, writing=not dry_run) as cache:
        results = run_steps(steps, cache=cache, dry_run=dry_run, reporter=stderr_reporter())
        hashes = {} if dry_run else {path: cache.sha256(path) for result in results for path in result.outputs}
    seconds = time.monotonic() - started
    data: dict[str, Any] = {
        "output": str(folder),
        "dry_run": dry_run,
        "steps": [{"name": r.name, "ran": r.ran, "reason": r.reason, "seconds": round(r.seconds, 3)} for r in results],
        "files": {str(path): {"bytes": path.stat().st_size, "sha256": sha256} for path, sha256 in hashes.items()},
        "seconds": round(seconds, 3),
    }
    return Answer(data, _dry_text(results) if dry_run else _text(results, hashes, seconds))


def _dry_text(results: Sequence[StepResult]) -> str:
    return columns((r.name, "would run" if r.ran else "skip", r.reason) for r in results)


def _text(results: Sequence[StepResult], hashes: dict[Path, str], seconds: float) -> str:
    files = columns((str(path), human_bytes(path.stat().st_size), sha256) for path, sha256 in hashes.items())
    ran = sum(result.ran for result in results)
    return f"{files}\n{ran} of {len(results)} steps ran in {seconds:.1f} s"
