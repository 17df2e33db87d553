"""`vboot build`: the whole image."""

from __future__ import annotations

import argparse
import sys
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
from builder.plan import BUILT_IN, TENSORS_NAME, plan_build
from builder.remembered import flags_of, remember, require_files
from builder.reproducible import build_again, compare
from builder.settings import DEFAULT_OUTPUT, SETTINGS, Config, ModelSettings
from builder.steps import Step
from cli import hints
from cli.answer import Answer, columns, human_bytes
from cli.capabilities import capability_rows
from cli.progress import reported, stderr_reporter
from cli.settings_flags import add_settings, read_config
from vboot.check import check_file
from vboot.errors import InputError
from vboot.text import path_json, path_text, shell_join

VERB = "build"
OUTPUT = "image.output"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="print what would be done and why; write nothing")
    only.add_argument(
        "--check-reproducible", action="store_true", help="build a second time in another folder and compare the files"
    )
    parser.add_argument(
        "--defaults", action="store_true", help="forget the settings of the last build in the output folder"
    )
    add_settings(parser, verb=VERB)


def run(arguments: argparse.Namespace) -> Answer:
    """Build what has changed."""
    config = read_config(arguments)
    if arguments.check_reproducible and config.image.secure_boot is not None:
        what = "--check-reproducible contradicts --sign: a Secure Boot signature holds the time at which it was made"
        raise InputError(what, remedy="leave one of them out; manifest.json has the digests without signatures")
    answer = build_image(config, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        answer = _with_capabilities(answer, config.image.output / TENSORS_NAME)
        answer = replace(answer, text=f"{answer.text}\n{_kept_model(config)}".rstrip())
        hints.next_step(_boot_command(config.image.output))
    return _checked(answer, config) if arguments.check_reproducible else answer


def build_image(config: Config, *, dry_run: bool = False) -> Answer:
    """Build what has changed, and keep the settings for the next build. Says which model it is, and why."""
    require_files(config)
    steps = plan_build(config)
    _tell_settings(config)
    answer = run_plan(steps, folder=config.image.output, dry_run=dry_run)
    if not dry_run:
        remember(config.image.output, config)
    return answer


def _tell_settings(config: Config) -> None:
    """The model's name, and the settings that nobody gave now."""
    kept, folder = config.remembered, path_text(config.image.output)
    why = f" (as {folder} was made; --model changes it)" if "model.source" in kept else ""
    lines = [f"model: {model_name(config.model)}{why}"]
    others = flags_of(config, kept - {"model.source"})
    if others:
        lines.append(f"also as {folder} was made: {' '.join(others)} (`vboot build --defaults` forgets them)")
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


def _kept_model(config: Config) -> str:
    """A line about a model that nobody named now and is not the default; else ""."""
    default = next(setting.default for setting in SETTINGS if setting.name == "model.source")
    if "model.source" not in config.remembered or config.model.source == default:
        return ""
    option = hints.option("MODEL", "--model", str(default))
    return f"model     {model_name(config.model)} (kept from the last build; {option} builds the default)"


def model_name(model: ModelSettings) -> str:
    """The model of a build in words: its name or path, and the type if one is asked for."""
    name = model.source if model.source in BUILT_IN else path_text(Path(model.source))
    return f"{name}, {model.type} weights" if model.type else name


def _boot_command(output: Path) -> str:
    return hints.command("boot") if output == DEFAULT_OUTPUT else f"vboot boot --image {shell_join([str(output)])}"


def _with_capabilities(answer: Answer, tensors: Path) -> Answer:
    """Add what the machine will be able to do, as the executable says of the composed file."""
    capabilities = check_file(executable_path(), tensors)["capabilities"]
    text = f"{answer.text}\n\na machine with this model\n{columns(capability_rows(capabilities))}"
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
    return Answer(data, _dry_text(results) if dry_run else _text(results, tuple(hashes), seconds))


def _dry_text(results: Sequence[StepResult]) -> str:
    return columns((r.title, "would be built" if r.ran else "stays", r.reason) for r in results)


def _text(results: Sequence[StepResult], paths: Sequence[Path], seconds: float) -> str:
    files = columns((_near(path), human_bytes(path.stat().st_size)) for path in paths)
    ran = sum(result.ran for result in results)
    built = f"{ran} of {len(results)} parts built in {seconds:.1f} s" if ran else "everything was up to date"
    return f"{files}\n{built}"


def _near(path: Path) -> str:
    """A path for people: without the folder that they are in."""
    here = Path.cwd()
    return path_text(path.relative_to(here) if path.is_relative_to(here) else path)
