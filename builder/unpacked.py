"""Debian packages that are unpacked into a cache: downloaded once, and checked each time that they are used."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from builder import apt
from builder.apt import Package, Progress
from vboot.errors import InputError

RECORD_NAME = "package.json"


def unpacked_package(
    folder: Path, find: Callable[[], Package], *, refresh: bool = False, progress: Progress
) -> Package:
    """The package whose files are in `folder`/root: the one that is there, if its hashes are right, or the one found.

    `find` asks apt for it; with `refresh` it is always asked. Raises ToolError if apt or dpkg-deb is missing or fails,
    InputError if the files cannot be stored.
    """
    package = None if refresh else _cached(folder, progress)
    return package or _install(folder, find, progress)


def _install(folder: Path, find: Callable[[], Package], progress: Progress) -> Package:
    """Download and unpack the package; `folder` is replaced when that is complete."""
    progress("resolving the package", 0, 0)
    package = find()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".package-", dir=folder.parent) as scratch:
            content = apt.unpack(apt.download(package, Path(scratch), progress=progress), progress=progress)
            # Not synced to disk: a copy damaged by a power cut fails the check of hashes and is downloaded again.
            record = {"package": asdict(package), "tree": _tree_sha256(content / "root")}
            (content / RECORD_NAME).write_text(json.dumps(record, indent=1))
            if folder.exists():
                folder.rename(Path(scratch) / "replaced")
            content.rename(folder)
    except OSError as error:
        # Another build may have stored the same package in the meantime.
        if _cached(folder, progress) != package:
            raise InputError(f"{folder}: {package.name} cannot be stored there: {error.strerror}") from error
    return package


def _cached(folder: Path, progress: Progress) -> Package | None:
    """The package unpacked in `folder`, if it is complete and unchanged."""
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
        progress(f"checking the cached {folder.name}", 0, 0)
        if record["tree"] == _tree_sha256(folder / "root"):
            return Package(**record["package"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _tree_sha256(root: Path) -> str:
    """SHA-256 (hexadecimal) over the paths and contents of all files below `root`, in order of path."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + digest)
    return total.hexdigest()
