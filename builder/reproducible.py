"""Builds the image a second time, in another place and environment, and compares the files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.cache import Progress, hash_file
from builder.executable import BUILD_TIMEOUT_S, CRATE, QUERY_TIMEOUT_S, find_toolchain
from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import parse_outputs
from vboot.errors import InputError
from vboot.programs import capture, run_logged

# The folders that a build reads; the rest of the checkout does not influence an image.
SOURCES = ("builder", "cli", "image", "initramfs", "qemu", "spec", "vboot")
CRATE_SOURCES = ("Cargo.toml", "Cargo.lock", "build.rs", "build", "src", "tests", "examples")
OTHER_ENVIRONMENT = {
    "TZ": "Pacific/Chatham",
    "LC_ALL": "C",
    "LANG": "tr_TR.UTF-8",
    "SOURCE_DATE_EPOCH": "86400",
    "USER": "somebody",
    "LOGNAME": "somebody",
    "CARGO_BUILD_JOBS": "1",
}
OTHER_USER_ID = 12345
OTHER_UMASK = 0o077
OTHER_TIME_S = 1_000_000_000
"""The copied sources are from 2001."""


@dataclass(frozen=True)
class Difference:
    """A file that differs: SHA-256 of the first and of the second build ("" where one has no such file)."""

    name: str
    first: str
    second: str


def build_again(words: Sequence[str], *, folder: Path, progress: Progress) -> Path:
    """Build with the same settings (`words` of `vboot build`) from a copy of the sources below `folder`.

    The copy lies at another path and has other times. It is compiled from nothing, on one processor, with another home,
    cargo home, user, time zone, locale and umask. Nothing is downloaded again: the caches are linked. Returns the
    folder of the second image. Raises ToolError if that build fails.
    """
    copy = folder / "another place"
    root = CRATE.parent
    for name in SOURCES:
        _copy(root / name, copy / name)
    for name in CRATE_SOURCES:
        _copy(CRATE / name, copy / CRATE.name / name)
    _set_times(copy)
    output = copy / "image of the copy"
    command = [*_other_user(), sys.executable, "-m", "builder", "build", *words, "--output", str(output)]
    before = os.umask(OTHER_UMASK)
    try:
        run_logged(
            command,
            phase="the second build",
            timeout_s=BUILD_TIMEOUT_S,
            log=folder / "second-build.log",
            folder=copy,
            environment=_other_environment(folder / "another home"),
            on_line=lambda line: progress(line, 0, 0),
            remedy="see the log",
        )
    finally:
        os.umask(before)
    return output


def _other_environment(home: Path) -> dict[str, str]:
    """The environment of another user, whose home links to what this user has downloaded."""
    from image.minilm import user_cache

    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    other_cargo_home = home / "cargo home"
    other_cargo_home.mkdir(parents=True)
    for name in ("registry", "git", "config.toml", "config"):
        if (cargo_home / name).exists():
            (other_cargo_home / name).symlink_to((cargo_home / name).resolve())
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    return (
        environment
        | OTHER_ENVIRONMENT
        | {
            "HOME": str(home),
            "CARGO_HOME": str(other_cargo_home),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup"),
            "XDG_CACHE_HOME": str(user_cache().parent),
            # Found on PATH, or in the home that is another one now.
            "PATH": f"{os.environ.get('PATH', '')}{os.pathsep}{find_toolchain().cargo.parent}",
        }
    )


def _other_user() -> list[str]:
    """A command before the command: one processor, and another user id, where this host allows it."""
    words = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    other = ["unshare", "--user", f"--map-user={OTHER_USER_ID}", f"--map-group={OTHER_USER_ID}"]
    if shutil.which("unshare") and _succeeds([*other, "true"]):
        # In a namespace of its own the process still has this user's rights to files.
        words += other
    return words


def _succeeds(command: list[str]) -> bool:
    return capture(command, phase="trying another user", timeout_s=QUERY_TIMEOUT_S).returncode == 0


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


def _set_times(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (OTHER_TIME_S, OTHER_TIME_S), follow_symlinks=False)
