"""Runs steps in order, skips those that are up to date, and reports to a `Reporter`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.cache import Cache, Progress, StepEntry, step_key
from builder.progress import Reporter
from builder.steps import Context, Facts, Step, hash_all, reason_to_run
from vboot.errors import VbootError


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step, which people know as `title`.

    Whether it ran (in a dry run: would run), why, its duration in seconds, its facts.
    """

    name: str
    ran: bool
    reason: str
    seconds: float
    outputs: tuple[Path, ...]
    facts: Facts
    title: str = ""


def run(steps: Sequence[Step], *, cache: Cache, dry_run: bool = False, reporter: Reporter) -> tuple[StepResult, ...]:
    """Run the steps that are not up to date, in the order given; outputs of one may be inputs of a later one.

    A dry run changes nothing and reports what would run. Raises the VbootError of the first step that fails.
    """
    results: list[StepResult] = []
    facts: dict[str, Facts] = {}
    pending: set[Path] = set()
    for step in steps:
        result = _plan(step, cache, pending, reporter) if dry_run else _run_step(step, cache, facts, reporter)
        if dry_run and result.ran:
            pending.update(step.outputs)
        facts[step.name] = result.facts
        results.append(result)
    return tuple(results)


UP_TO_DATE = "up to date"


def _plan(step: Step, cache: Cache, pending: set[Path], reporter: Reporter) -> StepResult:
    reason = reason_to_run(step, cache, pending=pending, progress=_progress(step, reporter))
    return StepResult(step.name, reason is not None, reason or UP_TO_DATE, 0.0, step.outputs, {}, step.shown)


def _run_step(step: Step, cache: Cache, facts: dict[str, Facts], reporter: Reporter) -> StepResult:
    started = time.monotonic()
    progress = _progress(step, reporter)
    try:
        step.before()
        reason = reason_to_run(step, cache, progress=progress)
        if reason is None:
            reporter.skip(step.shown, UP_TO_DATE)
            known = cache.steps[step.id].facts
            return StepResult(step.name, False, UP_TO_DATE, time.monotonic() - started, step.outputs, known, step.shown)
        reporter.start(step.shown, f"{step.doing}, because {reason}")
        entry = _execute(step, cache, facts, progress)
    except BaseException as error:
        reporter.fail(step.shown, str(error) or type(error).__name__)
        raise
    cache.steps[step.id] = entry
    cache.save()
    seconds = time.monotonic() - started
    reporter.done(step.shown, seconds)
    return StepResult(step.name, True, reason, seconds, step.outputs, entry.facts, step.shown)


def _execute(step: Step, cache: Cache, facts: dict[str, Facts], progress: Progress) -> StepEntry:
    inputs = hash_all(step.inputs, cache, progress=progress)
    started_ns = time.time_ns()
    facts_of_run = step.run(Context(progress, facts, lambda path: cache.sha256(path, progress=progress)))
    missing = [str(path) for path in step.outputs if not path.is_file()]
    if missing:
        raise VbootError(f"step {step.name} ended without writing {', '.join(missing)}", remedy="report this bug")
    discovered = hash_all(step.discovered(), cache, progress=progress)
    for name in discovered:
        # Edited while the step ran: which contents it read is unknown, so the next build must repeat it.
        if Path(name).stat().st_mtime_ns >= started_ns:
            discovered[name] = ""
    parameters = step.parameter_texts()
    return StepEntry(
        key=step_key(step.name, parameters=parameters, inputs=inputs),
        parameters=parameters,
        inputs=inputs,
        discovered=discovered,
        outputs=hash_all(step.outputs, cache, progress=progress),
        facts=dict(facts_of_run),
    )


def _progress(step: Step, reporter: Reporter) -> Progress:
    return lambda phase, done, total: reporter.progress(step.shown, phase, done, total)
