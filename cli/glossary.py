"""The words of this project: the glossary, the codes of the protocol's errors, the rules of GGUF files.

The sources are docs/glossary.md (in a wheel: cli/glossary.md), the protocol's tables, and spec/gguf.md.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from vboot.protocol.tables import (
    JOURNAL_REASONS,
    JOURNAL_REMEDIES,
    MEANINGS,
    RELOAD_REASONS,
    RELOAD_REMEDIES,
    REMEDIES,
    UPDATE_REASONS,
    UPDATE_REMEDIES,
    Code,
)

_HERE = Path(__file__).resolve().parent
_SOURCES = (_HERE / "glossary.md", _HERE.parent / "docs" / "glossary.md")
_REASONS = {
    str(int(Code.JOURNAL_FAILED)): (JOURNAL_REASONS, JOURNAL_REMEDIES),
    str(int(Code.RELOAD_FAILED)): (RELOAD_REASONS, RELOAD_REMEDIES),
    str(int(Code.UPDATE_FAILED)): (UPDATE_REASONS, UPDATE_REMEDIES),
}
_RULES = _HERE.parent / "spec" / "gguf.md"


@functools.cache
def terms() -> Mapping[str, str]:
    """Every term and its meaning, in the order of the glossary."""
    source = next(path for path in _SOURCES if path.is_file())
    return {row[0]: row[1] for row in _rows(source) if row[0] != "term"}


@functools.cache
def rules() -> Mapping[str, str]:
    """What each rule of a GGUF file demands, by its name: "R1" to "R24"."""
    return {row[0]: row[1] for row in _rows(_RULES) if re.fullmatch(r"R\d+", row[0])}


def codes() -> Mapping[str, str]:
    """What each code of an error means, and what to do about it."""
    return {str(code): f"{meaning}; {REMEDIES[code]}" for code, meaning in MEANINGS.items()}


def reasons(name: str) -> tuple[tuple[str, str], ...]:
    """The words of `data.reason` with a code, if it has such: what each means, and what to do."""
    meanings, remedies = _REASONS.get(name, ({}, {}))
    return tuple((word, f"{meaning}; {remedies[word]}") for word, meaning in meanings.items())


def explained(word: str) -> tuple[tuple[str, str], ...]:
    """The entries for a word: a term or a part of one, a code, a rule, in any case; () if there is none.

    An entry of this very name comes alone, but for the reasons of a code.
    """
    wanted = word.casefold().strip()
    everything = {**terms(), **rules(), **codes()}
    exact = [name for name in everything if wanted in _names(name)]
    found = exact or [name for name in terms() if wanted and wanted in name.casefold()]
    return tuple(entry for name in found for entry in ((name, everything[name]), *reasons(name)))


def _names(name: str) -> set[str]:
    """How an entry may be asked for: "trial", or either of "admission, gate", or "generation" for each kind of it."""
    folded = name.casefold()
    return {folded, *folded.split(", "), re.sub(r" \(.*\)$", "", folded)}


def listed(entries: Iterable[tuple[str, str]], *, width: int) -> str:
    """Entries as text: each name, and its meaning in lines of at most `width` characters."""
    indent = " " * 4
    blocks = [
        f"{name}\n{textwrap.fill(meaning, max(40, width), initial_indent=indent, subsequent_indent=indent)}"
        for name, meaning in entries
    ]
    return "\n".join(blocks)


def _rows(page: Path) -> Iterable[tuple[str, ...]]:
    """The rows of the tables of a page, as plain text."""
    for line in page.read_text("utf-8").splitlines():
        cells = [_plain(cell) for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) > 1:
            yield tuple(cells)


def _plain(text: str) -> str:
    """Markdown as plain text: links by the file that they lead to, no emphasis; code inside a sentence stays marked."""
    text = re.sub(r"\[([^\]]+)\]\((?:\.\./)?([^)]+)\)", r"\2", text.strip())
    text = re.sub(r"(?<!\w)\*([^*]+)\*(?!\w)", r"\1", text)
    return re.sub(r"^`([^`]+)`$", r"\1", text)
