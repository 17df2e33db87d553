"""The user's own pairs: a file of JSON lines, {"query": "...", "document": "..."} each.

`parse` is pure. It refuses what it does not know instead of passing over it, since a misspelt member would leave a
search without its data.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from evolution.fitness.contract import Pair
from vboot.errors import InputError

FILE_BYTES = 64 << 20
LINE_BYTES = 64 << 10
"""Models read no more than their context, some hundred words."""

_FORM = 'write one {"query": "...", "document": "..."} a line'


def read(path: Path) -> tuple[Pair, ...]:
    """The pairs of a file, in its order. Raises InputError for one that cannot be read, is too large, or is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="give a file of pairs") from error
    if len(data) > FILE_BYTES:
        raise InputError(f"{path} is larger than {FILE_BYTES >> 20} MiB", remedy="give fewer pairs")
    return parse(data, name=str(path))


def parse(data: bytes, *, name: str) -> tuple[Pair, ...]:
    """The pairs of a file's bytes; empty lines count as none. Raises InputError, which tells the line of `name`."""
    pairs = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            pairs.append(_pair(line, where=f"{name}, line {number}"))
    if not pairs:
        raise InputError(f"{name} holds no pairs", remedy=_FORM)
    return tuple(pairs)


def _pair(line: bytes, *, where: str) -> Pair:
    if len(line) > LINE_BYTES:
        raise InputError(f"{where} is longer than {LINE_BYTES >> 10} KiB", remedy="shorten its texts")
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, too many digits
        raise InputError(f"{where} is no JSON ({error})", remedy=_FORM) from error
    if not isinstance(value, dict) or value.keys() != {"query", "document"}:
        raise InputError(f'{where} is no object of just "query" and "document"', remedy=_FORM)
    return Pair(_text(value["query"], f"{where}: query"), _text(value["document"], f"{where}: document"))


def _text(value: object, where: str) -> str:
    """A text that can be sent to a machine. A lone surrogate, as in "\\ud800", is none."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} is no text", remedy="write a string of one word or more")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds half of a character", remedy="write characters in UTF-8") from error
    return value


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("a member is given twice")
    return value
