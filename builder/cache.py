"""The record of the last build: a step whose inputs, parameters and outputs are unchanged is not repeated.

One JSON file holds two tables. `files` has the SHA-256 of each file with its stamp (size, times, inode), so that an
unchanged 1 GB model costs one stat; `steps` has what each step read and wrote. A damaged or missing record counts as
empty, and everything is built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vboot.errors import InputError
from vboot.files import atomic_write

RECORD_NAME = ".vboot-cache.json"
LOCK_NAME = ".vboot.lock"
VERSION = 1

CHUNK_BYTES = 1 << 20
# Hashing less than this takes a few milliseconds: no progress is reported, and no wait makes the stamp reliable.
LARGE_BYTES = 8 << 20
# Linux stamps files with the time of the last timer tick (4 ms, at most 10 ms apart): a write within one tick of an
# earlier one leaves the stamp as it was.
STAMP_GRANULARITY_NS = 20_000_000

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); the units depend on the phase, total 0 means unknown."""


@dataclass(frozen=True)
class FileEntry:
    """A file's SHA-256 and the stamp (bytes, ns, ns, inode) it had when hashing began at `hashed_at_ns`."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    hashed_at_ns: int
    sha256: str

    def holds_for(self, status: os.stat_result) -> bool:
        """Whether a file with this status is certain to have these contents."""
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        unchanged = stamp == (self.size, self.mtime_ns, self.ctime_ns, self.inode)
        return unchanged and self.ctime_ns + STAMP_GRANULARITY_NS < self.hashed_at_ns


@dataclass(frozen=True)
class StepEntry:
    """One finished step: its parameters (JSON text by name), SHA-256 by path of what it read and wrote, its facts.

    `discovered` are inputs that become known only during the run, such as the files that a compiler included.
    """

    key: str
    parameters: dict[str, str]
    inputs: dict[str, str]
    discovered: dict[str, str]
    outputs: dict[str, str]
    facts: dict[str, str | int]


def step_key(name: str, *, parameters: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """SHA-256 (hex) of a step's name, parameters and its inputs' contents; paths are not part of it."""
    canonical = json.dumps([name, dict(parameters), list(inputs.values())], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def hash_file(file: Path, *, progress: Progress | None = None) -> str:
    """The SHA-256 (hex) of a file, read in chunks. Raises OSError."""
    digest = hashlib.sha256()
    total, done = file.stat().st_size, 0
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None and total >= LARGE_BYTES:
                progress(f"hashing {file.name}", done, total)
    return digest.hexdigest()


@dataclass
class Cache:
    """The record of one output folder, in memory. `save` writes it back."""

    path: Path
    files: dict[str, FileEntry] = field(default_factory=dict)
    steps: dict[str, StepEntry] = field(default_factory=dict)

    def sha256(self, file: Path, *, progress: Progress | None = None) -> str:
        """The file's SHA-256 (hex), from the record when its stamp is unchanged. Raises OSError."""
        name = str(file.resolve())
        status = file.stat()
        known = self.files.get(name)
        if known is not None and known.holds_for(status):
            return known.sha256
        if status.st_size >= LARGE_BYTES and time.time_ns() - status.st_ctime_ns < 2 * STAMP_GRANULARITY_NS:
            time.sleep(2 * STAMP_GRANULARITY_NS / 1e9)
        started_ns = time.time_ns()
        digest = hash_file(file, progress=progress)
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        self.files[name] = FileEntry(*stamp, started_ns, digest)
        return digest

    def has(self, file: Path, sha256: str, *, progress: Progress | None = None) -> bool:
        """Whether the file exists with these contents."""
        try:
            return self.sha256(file, progress=progress) == sha256
        except OSError:
            return False

    def save(self) -> None:
        """Write the record atomically, without files that no longer exist."""
        self.files = {name: entry for name, entry in self.files.items() if Path(name).exists()}
        with atomic_write(self.path) as stream:
            stream.write(render_record(self.files, self.steps))


def render_record(files: Mapping[str, FileEntry], steps: Mapping[str, StepEntry]) -> bytes:
    """The record as JSON; `parse_record` reads it back."""
    document = {
        "version": VERSION,
        "files": {name: asdict(entry) for name, entry in files.items()},
        "steps": {name: asdict(entry) for name, entry in steps.items()},
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def parse_record(data: bytes) -> tuple[dict[str, FileEntry], dict[str, StepEntry]]:
    """Read a record. Anything that is not a valid record gives two empty tables, never an error."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            return {}, {}
        files = {name: FileEntry(**entry) for name, entry in document["files"].items()}
        steps = {name: StepEntry(**entry) for name, entry in document["steps"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, {}
    if not all(_is_valid_file(entry) for entry in files.values()) or not all(
        _is_valid_step(step) for step in steps.values()
    ):
        return {}, {}
    return files, steps


@contextmanager
def open_cache(folder: Path, *, writing: bool = True) -> Iterator[Cache]:
    """The cache of an output folder; with `writing`, the folder is made and locked, and the record saved at the end.

    Raises InputError if another build holds the folder or it cannot be written to.
    """
    path = folder / RECORD_NAME
    if not writing:
        yield _load(path)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written to: {error.strerror}", remedy="name another with --output"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another build is writing to {folder}", remedy="wait for it or name another folder with --output"
            ) from error
        cache = _load(path)
        try:
            yield cache
        finally:
            # Also after a failure, to keep the hashes computed so far.
            cache.save()


def _load(path: Path) -> Cache:
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    files, steps = parse_record(data)
    return Cache(path, files, steps)


def _is_valid_file(entry: FileEntry) -> bool:
    numbers = (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, entry.hashed_at_ns)
    return all(type(number) is int for number in numbers) and isinstance(entry.sha256, str)


def _is_valid_step(entry: StepEntry) -> bool:
    texts = (entry.parameters, entry.inputs, entry.discovered, entry.outputs)
    return (
        isinstance(entry.key, str)
        and all(isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) for table in texts)
        and isinstance(entry.facts, dict)
        and all(isinstance(value, str | int) for value in entry.facts.values())
    )
