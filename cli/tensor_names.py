"""The names of a model's tensors, found within a blink for the completion of the command line.

`vboot.gguf` reads more, and imports numpy, which takes longer than a person who has pressed Tab should wait.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vboot.text import parse_path

RUNS = Path("build/run")
MODEL = Path("build/vectorland.gguf")
"""The model whose names are taken when no machine runs."""
_MOST = 65_536
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the values of a fixed size, by type."""
_STRING, _ARRAY = 8, 9


def likely_model() -> Path:
    """The model of the machine that was started last and still runs, else the one in build/."""
    found = []
    for path in {*RUNS.glob("*/machine.json"), *_registered()}:
        record = _record(path)
        try:
            inputs = [parse_path(each["path"]) for each in record["inputs"]]
            started = float(record.get("started_wall") or 0)
            runs = Path(f"/proc/{int(record['pid'])}").exists()
        except (ValueError, KeyError, TypeError):
            continue
        models = [path.with_name("booted.gguf")]
        models += [place.with_name(MODEL.name) for place in inputs if place.suffix == ".rts"]
        found += [(started, model) for model in models if runs and model.is_file()][:1]
    return max(found)[1] if found else MODEL


def _registered() -> list[Path]:
    """The records of this user's machines in any folder (qemu/registry.py writes the entries)."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    runs = [_record(entry).get("run") for entry in Path(base, "vector_boot", "runs").glob("*.json")]
    return [parse_path(run) / "machine.json" for run in runs if isinstance(run, str)]


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def tensor_names(model: Path) -> tuple[str, ...]:
    """The names in the order of the file; () if it is not there, or not a sound GGUF."""
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(_Head(data).names())
    except (OSError, ValueError, struct.error, KeyError):
        return ()


class _Head:
    """The head of a GGUF file, read from its front."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def names(self) -> Iterator[str]:
        if self._take(4) != b"GGUF":
            return
        self._number("<I")
        tensors, entries = self._number("<Q"), self._number("<Q")
        if max(tensors, entries) > _MOST:
            return
        for _ in range(entries):
            self._take(self._number("<Q"))
            self._skip_value(self._number("<I"))
        for _ in range(tensors):
            yield self._take(self._number("<Q")).decode("utf-8")
            self._take(8 * self._number("<I") + 4 + 8)

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._take(self._number("<Q"))
        elif kind == _ARRAY:
            of, count = self._number("<I"), self._number("<Q")
            if of in _SIZES:
                self._take(_SIZES[of] * count)
            else:
                for _ in range(count):
                    self._take(self._number("<Q"))
        else:
            self._take(_SIZES[kind])

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ValueError("the file ends inside its head")
        self._at += size
        return self._data[self._at - size : self._at]
