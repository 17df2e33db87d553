"""Splits pairs into the data of a search and the held-out data of its report. Pure.

The part of a pair depends on its content alone. So more pairs move no pair to another part, and a search that is
continued after an update of the package lists has not seen its held-out pairs. No text is in two parts: a pair whose
query or document is also in a part with precedence is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from evolution.fitness.contract import Dataset, Pair, SearchData
from vboot.errors import InputError

_SALT = b"vector_boot pairs 1"
"""Another salt gives another split."""
_SHARES = {"train": 70, "calibration": 10, "watch": 5, "held_out": 15}
"""Percent of all pairs."""
_JUDGES_FIRST = ("held_out", "calibration", "watch", "train")
"""If a text is in two parts, the first of them in this order keeps it."""
_WATCH_CHARACTERS = 200
"""An emulated machine embeds a text of this length in a few seconds."""


@dataclass(frozen=True)
class PartSizes:
    """The greatest number of pairs in each part."""

    train: int = 16384
    calibration: int = 256
    watch: int = 32
    held_out: int = 1024


DEFAULT_SIZES = PartSizes()


def pair_digest(pair: Pair) -> bytes:
    """SHA-256 of a pair's content with the salt of this split. Raises UnicodeEncodeError for a lone surrogate."""
    query, document = pair.query.encode(), pair.document.encode()
    return hashlib.sha256(_SALT + len(query).to_bytes(8, "little") + query + document).digest()


def split(pairs: Iterable[Pair], *, source: str, sizes: PartSizes = DEFAULT_SIZES) -> Dataset:
    """The parts, each in the order of its pairs' digests and cut to its size; duplicates count once.

    No text of a part is in another part, also not among the pairs cut off. `watch` prefers pairs of two short texts.
    Raises InputError if a part has fewer than two pairs.
    """
    parts: dict[str, list[tuple[bytes, Pair]]] = {name: [] for name in _SHARES}
    for digest, pair in sorted({pair_digest(pair): pair for pair in pairs}.items()):
        parts[_part(digest)].append((digest, pair))
    taken: set[str] = set()
    for name in _JUDGES_FIRST:
        parts[name] = [entry for entry in parts[name] if taken.isdisjoint(_texts(entry[1]))]
        taken.update(text for _, pair in parts[name] for text in _texts(pair))
    parts["watch"].sort(key=lambda entry: not _is_short(entry[1]))
    content = hashlib.sha256()
    kept: dict[str, tuple[Pair, ...]] = {}
    for name, entries in parts.items():
        chosen = entries[: getattr(sizes, name)]
        if len(chosen) < 2:
            what = f"{source}: the {name.replace('_', '-')} part has {len(chosen)} pairs"
            raise InputError(what, remedy="give more pairs, about 100 in all, and allow two or more for each part")
        kept[name] = tuple(pair for _, pair in chosen)
        content.update(f"{name} {len(chosen)}\n".encode() + b"".join(digest for digest, _ in chosen))
    search = SearchData(kept["train"], kept["calibration"], kept["watch"])
    return Dataset(source, content.hexdigest(), search, kept["held_out"])


def _part(digest: bytes) -> str:
    """The part whose share of the range 0 to 1 has the digest's first 8 bytes, read as a fraction."""
    position = int.from_bytes(digest[:8], "big") * 100
    end = 0
    for name, share in _SHARES.items():
        end += share << 64
        if position < end:
            return name
    raise AssertionError("the shares are 100 percent in all")


def _texts(pair: Pair) -> tuple[str, str]:
    return pair.query, pair.document


def _is_short(pair: Pair) -> bool:
    return max(len(pair.query), len(pair.document)) <= _WATCH_CHARACTERS
