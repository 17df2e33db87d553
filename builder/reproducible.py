"""Builds the image a second time, in another place and environment, and compares the files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.cache import Progress, hash_file
from builder.executable import BUILD_TIMEOUT_S, CRATE
from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import parse_outputs
from vboot.errors import InputError
from vboot.programs import run_logged

# The folders that a build reads; the rest of the checkout does not influence an image.
SOURCES = ("builder", "cli", "image", "initramfs", "qemu", "spec", "vboot")
CRATE_SOURCES = ("Cargo.toml", "Cargo.lock", "build.rs", "build", "src", "tests", "examples")
OTHER_ENVIRONMENT = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "SOURCE_DATE_EPOCH": "86400"}


@dataclass(frozen=True)
class Difference:
    """A file that differs: SHA-256 of the first and of the second build ("" where one has no such file)."""

    name: str
    first: str
    second: str


def build_again(words: Sequence[str], *, folder: Path, progress: Progress) -> Path:
    """Build with the same settings (`words` of `vboot build`) from a copy of the sources below `folder`.

    The copy lies at another path, is compiled from nothing, with another time zone, locale and umask. Returns the
    folder of the second image. Raises ToolError if that build fails.
    """
    copy = folder / "another place"
    root = CRATE.parent
    for name in SOURCES:
        _copy(root / name, copy / name)
    for name in CRATE_SOURCES:
        _copy(CRATE / name, copy / CRATE.name / name)
    output = copy / "image of the copy"
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    command = [sys.executable, "-m", "builder", "build", *words, "--output", str(output)]
    before = os.umask(0o077)
    try:
        run_logged(
            command,
            phase="the second build",
            timeout_s=BUILD_TIMEOUT_S,
            log=folder / "second-build.log",
            folder=copy,
            environment=environment | OTHER_ENVIRONMENT,
            on_line=lambda line: progress(line, 0, 0),
            remedy="see the log",
        )
    finally:
        os.umask(before)
    return output


def compare(first: Path, second: Path) -> list[Difference]:
    """The files of two images that differ, by the names their manifests list, and the manifests themselves."""
    hashes = [_hashes(folder) for folder in (first, second)]
    names = sorted(hashes[0].keys() | hashes[1].keys())
    pairs = [Difference(name, hashes[0].get(name, ""), hashes[1].get(name, "")) for name in names]
    return [pair for pair in pairs if pair.first != pair.second]


def _hashes(folder: Path) -> Mapping[str, str]:
    manifest = folder / MANIFEST_NAME
    try:
        names = [*parse_outputs(manifest.read_bytes(), origin=str(manifest)), MANIFEST_NAME]
        return {name: hash_file(folder / name) for name in names}
    except OSError as error:
        raise InputError(f"{manifest}: {error.strerror}", remedy="build the image first") from error


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
