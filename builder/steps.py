"""A step of a build: its inputs and outputs, and the reason for which it has to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.cache import Cache, Progress, StepEntry, step_key
from vboot.errors import InputError

Facts = Mapping[str, str | int]
"""Values from a run that later steps and the manifest use; stored in the cache, so that a skipped step has them too."""


@dataclass(frozen=True)
class Context:
    """What a running step may use: where to report progress, the facts of earlier steps, cached file hashes."""

    progress: Progress
    facts: Mapping[str, Facts]
    sha256: Callable[[Path], str]


def nothing_discovered() -> tuple[Path, ...]:
    """The `discovered` of a step whose inputs are all known before it runs."""
    return ()


def nothing_to_do() -> None:
    """The `before` of a step whose inputs need no look before they are hashed."""


@dataclass(frozen=True)
class Step:
    """One unit of work, repeated only when its name, parameters, inputs' contents or outputs' contents have changed.

    People know it as `title`, and what it does as `doing`. `parameters` are JSON values. `before` is called first,
    before any input is hashed, and raises if none is worth it. `discovered` is called after a run and gives inputs that
    became known only then.
    """

    name: str
    run: Callable[[Context], Facts]
    title: str = ""
    doing: str = "building"
    inputs: tuple[Path, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    before: Callable[[], None] = nothing_to_do
    discovered: Callable[[], tuple[Path, ...]] = nothing_discovered

    @property
    def shown(self) -> str:
        """The name for people."""
        return self.title or self.name

    @property
    def id(self) -> str:
        """The name in the cache; the same step with other outputs has an entry of its own."""
        return f"{self.name} -> {', '.join(str(path.resolve()) for path in self.outputs)}"

    def parameter_texts(self) -> dict[str, str]:
        """The parameters as JSON texts, as the cache keeps them."""
        return {name: json.dumps(value, sort_keys=True) for name, value in self.parameters.items()}


def reason_to_run(step: Step, cache: Cache, *, pending: Collection[Path] = (), progress: Progress) -> str | None:
    """The reason why the step must run, or None if it is up to date.

    `pending` are files that an earlier step of the same plan will write. Raises InputError for a missing input that
    is not one of them.
    """
    for path in step.inputs:
        if path not in pending and not path.is_file():
            raise InputError(f"step {step.name} needs {path}, which does not exist", remedy="check the path")
    entry = cache.steps.get(step.id)
    if entry is None:
        return _missing_output(step) or "it was not built before"
    return (
        _missing_output(step)
        or _changed_parameter(step, entry)
        or next((f"{path.name} will be rebuilt" for path in step.inputs if path in pending), None)
        or _changed_input(step, entry, hash_all(step.inputs, cache, progress=progress))
        or _changed_file(entry, cache, progress)
    )


def hash_all(paths: tuple[Path, ...], cache: Cache, *, progress: Progress) -> dict[str, str]:
    """SHA-256 (hex) by resolved path, in the order given. Raises InputError for a file that cannot be read."""
    hashes = {}
    for path in paths:
        try:
            hashes[str(path.resolve())] = cache.sha256(path, progress=progress)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    return hashes


def _missing_output(step: Step) -> str | None:
    return next((f"{path.name} is missing" for path in step.outputs if not path.exists()), None)


def _changed_parameter(step: Step, entry: StepEntry) -> str | None:
    now = step.parameter_texts()
    for name in sorted({*now, *entry.parameters}):
        before, after = _text(entry.parameters.get(name)), _text(now.get(name))
        if before != after:
            return f"{name} was {before}, is {after}"
    return None


def _text(value: str | None) -> str:
    """A parameter for people; JSON's null is a setting that nobody gave."""
    return "not set" if value is None else "none" if value == "null" else value


def _changed_input(step: Step, entry: StepEntry, inputs: Mapping[str, str]) -> str | None:
    if step_key(step.name, parameters=step.parameter_texts(), inputs=inputs) == entry.key:
        return None
    for name, sha256 in inputs.items():
        if entry.inputs.get(name) != sha256:
            return f"{Path(name).name} has changed" if name in entry.inputs else f"{Path(name).name} is a new input"
    return "an input is no longer used"


def _changed_file(entry: StepEntry, cache: Cache, progress: Progress) -> str | None:
    for name, sha256 in {**entry.discovered, **entry.outputs}.items():
        if not cache.has(Path(name), sha256, progress=progress):
            return f"{Path(name).name} has changed"
    return None
