"""`current.json`, which names the files of the newest publication in a folder. Pure, except `read`.

The file is replaced atomically after the files that it names were written, so a reader never sees half a publication.
Names are relative paths, and published files never change: a new generation gets new names.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vboot.errors import InputError

NAME = "current.json"
LAYOUT = 1
_FILE = re.compile(r"[a-z0-9_]+(?:/[a-z0-9_]+)*\.[a-z]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PublishedModel:
    """A GGUF file: its name, the SHA-256 (hex) of its bytes, and the generation in which it was published."""

    file: str
    sha256: str
    generation: int


@dataclass(frozen=True)
class PublishedKernel:
    """A shader made by `evolution.kernels.to_wgsl`, for vectors of `dim` elements."""

    file: str
    sha256: str
    generation: int
    entry_point: str
    dim: int


@dataclass(frozen=True)
class Current:
    """The newest generation, and the newest kernel and model; None if none was published yet."""

    generation: int
    kernel: PublishedKernel | None
    model: PublishedModel | None


NOTHING = Current(0, None, None)


def dump(current: Current) -> bytes:
    """The bytes of the file."""
    return (json.dumps({"layout": LAYOUT, **asdict(current)}, indent=1) + "\n").encode()


def parse(data: bytes) -> Current:
    """The inverse of `dump`. Raises InputError for other bytes, and for names outside the folder."""
    try:
        rows = json.loads(data)
        if rows.pop("layout") != LAYOUT:
            raise ValueError(f"its layout is not {LAYOUT}")
        kernel, model = rows.pop("kernel"), rows.pop("model")
        current = Current(
            **rows,
            kernel=None if kernel is None else PublishedKernel(**kernel),
            model=None if model is None else PublishedModel(**model),
        )
        _check(current)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"not a valid {NAME} ({error!r:.80})", remedy="publish again") from error
    return current


def read(folder: Path) -> bytes | None:
    """The bytes of the file in a folder; None if nothing was published yet. Raises InputError if unreadable."""
    try:
        return (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {folder / NAME}: {error.strerror}", remedy="check its permissions") from error


def _check(current: Current) -> None:
    """Raises ValueError."""
    _require_number(current.generation)
    for part in (current.kernel, current.model):
        if part is None:
            continue
        _require_number(part.generation)
        if part.generation > current.generation:
            raise ValueError("the kernel or the model is newer than the generation")
        _require_text(part.file, _FILE)
        _require_text(part.sha256, _SHA256)
    if current.kernel is not None:
        _require_number(current.kernel.dim)
        _require_text(current.kernel.entry_point, re.compile(r"[a-z_]+"))


def _require_number(value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a non-negative integer, got {value!r:.40}")


def _require_text(value: Any, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.40} is not a valid name")
