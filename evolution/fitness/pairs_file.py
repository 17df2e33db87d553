"""The user's own pairs: a file of JSON lines, {"query": "...", "document": "..."} each.

`parse` and `dump` are pure. `parse` refuses unknown members, so that a misspelt name does not go unnoticed.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evolution.fitness.contract import Pair
from vboot.errors import InputError

FILE_BYTES = 64 << 20
LINE_BYTES = 64 << 10
"""Far more than the few hundred words that a model reads."""

_FORM = 'write one {"query": "...", "document": "..."} a line'


def read(path: Path) -> tuple[Pair, ...]:
    """The pairs of a file, in its order. Raises InputError if it cannot be read, is too large, or is malformed."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="give a file of pairs") from error
    if len(data) > FILE_BYTES:
        raise InputError(f"{path} is larger than {FILE_BYTES >> 20} MiB", remedy="give fewer pairs")
    return parse(data, name=str(path))


def parse(data: bytes, *, name: str) -> tuple[Pair, ...]:
    """The pairs in a file's bytes; empty lines are ignored. Raises InputError, which names the file and the line."""
    pairs = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            pairs.append(_pair(line, where=f"{name}, line {number}"))
    if not pairs:
        raise InputError(f"{name} has no pairs", remedy=_FORM)
    return tuple(pairs)


def dump(pairs: Iterable[Pair], *, name: str) -> bytes:
    """Pairs as the bytes of a file that `parse` reads. Raises InputError if it would be too large for `read`."""
    lines = []
    for pair in pairs:
        line = json.dumps({"query": pair.query, "document": pair.document}, ensure_ascii=False, separators=(",", ":"))
        lines.append(line.encode())
        if len(lines[-1]) > LINE_BYTES:
            raise InputError(f"{name} has a pair of more than {LINE_BYTES >> 10} KiB", remedy="shorten its texts")
    data = b"\n".join(lines)
    if len(data) > FILE_BYTES:
        raise InputError(f"the pairs of {name} are more than {FILE_BYTES >> 20} MiB", remedy="give fewer pairs")
    return data


def _pair(line: bytes, *, where: str) -> Pair:
    if len(line) > LINE_BYTES:
        raise InputError(f"{where} is longer than {LINE_BYTES >> 10} KiB", remedy="shorten its texts")
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or too many digits
        raise InputError(f"{where} is not JSON ({error})", remedy=_FORM) from error
    if not isinstance(value, dict) or value.keys() != {"query", "document"}:
        raise InputError(f'{where}: expected an object with exactly the members "query" and "document"', remedy=_FORM)
    return Pair(_text(value["query"], f"{where}: query"), _text(value["document"], f"{where}: document"))


def _text(value: object, where: str) -> str:
    """A text that can be sent to a machine. Raises InputError for other values, empty texts and lone surrogates."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected a text that is not empty", remedy="write a string of one or more words")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a lone surrogate", remedy="write both halves of the surrogate pair, or the character in UTF-8"
        ) from error
    return value


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("a member is given twice")
    return value
