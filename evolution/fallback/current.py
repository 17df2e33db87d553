"""`current.json`: what a folder of published files holds now. Pure, but for `read`.

The file is replaced as a whole, after all that it names is there, so whoever reads it never sees half a publication.
Names are paths below the folder, and a file never changes under its name: a new generation gets a new one.
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
    """A GGUF file: its name, the SHA-256 (hex) of its bytes, and the generation that it came with."""

    file: str
    sha256: str
    generation: int


@dataclass(frozen=True)
class PublishedKernel:
    """A shader, as `evolution.kernels.to_wgsl` makes them, for vectors of `dim` elements."""

    file: str
    sha256: str
    generation: int
    entry_point: str
    dim: int


@dataclass(frozen=True)
class Current:
    """The newest generation, and the newest kernel and model; None while there is none."""

    generation: int
    kernel: PublishedKernel | None
    model: PublishedModel | None


NOTHING = Current(0, None, None)


def dump(current: Current) -> bytes:
    """The bytes of the file."""
    return (json.dumps({"layout": LAYOUT, **asdict(current)}, indent=1) + "\n").encode()


def parse(data: bytes) -> Current:
    """What `dump` made these bytes from. Raises InputError for anything else, names that leave the folder included."""
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
        raise InputError(f"this is no {NAME} ({error!r:.80})", remedy="publish again") from error
    return current


def read(folder: Path) -> bytes | None:
    """The bytes of the file in a folder; None where nothing was published yet. Raises InputError if unreadable."""
    try:
        return (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {folder / NAME}: {error.strerror}", remedy="check who may read it") from error


def _check(current: Current) -> None:
    """Raises ValueError."""
    _require_number(current.generation)
    for part in (current.kernel, current.model):
        if part is None:
            continue
        _require_number(part.generation)
        if part.generation > current.generation:
            raise ValueError("a part is newer than the whole")
        _require_text(part.file, _FILE)
        _require_text(part.sha256, _SHA256)
    if current.kernel is not None:
        _require_number(current.kernel.dim)
        _require_text(current.kernel.entry_point, re.compile(r"[a-z_]+"))


def _require_number(value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no number")


def _require_text(value: Any, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.60} is no name")
