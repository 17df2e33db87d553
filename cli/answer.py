"""The answer of a verb, and the form of sizes and tables in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GAP, _LEFT_OUT = "  ", "..."
_LEAST_TEXT, _LEAST_NAME, _LEAST_HEAD = 20, 8, 6
"""Characters that a column of text, a column of names and the head of a column keep on a narrow terminal."""
_WHOLE = re.compile(r"[-+.,\d%]*|[0-9a-f]{64}( .*)?")
"""Cells that mean something else when they are shortened: numbers and digests."""


@dataclass(frozen=True)
class Answer:
    """The result of a verb, twice: `data` for --json, `text` for people.

    `data` may hold paths as `Path` objects: they are printed in a form that is valid JSON and that every path option
    takes. `report_only`: the verb did nothing but make this answer, so an answer that cannot be written is a failure.
    """

    data: Mapping[str, Any]
    text: str
    exit_code: int = 0
    report_only: bool = False


def human_bytes(count: int) -> str:
    """1536 as "1.5 KiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def text_width() -> int | None:
    """The width of the terminal that stdout is; None where it is none, and lines may have any length."""
    import shutil

    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except ValueError:  # closed
        return None


def filled(text: str, *, indent: str = "") -> str:
    """Words in lines that fit the terminal; one line where there is none."""
    import textwrap

    width = text_width() or 1 << 30
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def columns(rows: Iterable[Sequence[str]], *, width: int | None = None) -> str:
    """Rows of cells as lines with aligned columns, two spaces apart.

    On a terminal (or where a `width` is given) a table that is too wide is made to fit: the words of its last column go
    on in further lines, columns move together, heads are cut, the widest names are shortened in their middle. Numbers
    and digests stay whole.
    """
    lines = [list(row) for row in rows]
    natural = [max(map(len, column)) for column in zip(*lines, strict=True)]
    most = width or text_width()
    widths, gap = (natural, _GAP) if most is None else _fitted(lines, natural, most)
    return "\n".join(
        gap.join(cell.ljust(room) for cell, room in zip(line, widths, strict=True)).rstrip()
        for number, row in enumerate(lines)
        for line in _laid_out(row, widths, head=number == 0)
    )


def _fitted(rows: Sequence[Sequence[str]], natural: Sequence[int], most: int) -> tuple[list[int], str]:
    """The widths of the columns, and what stands between them, so that no line is longer than `most` if that can be."""
    widths = list(natural)
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - most
    words = [len(word) for row in rows for word in row[-1].split()]
    spare = widths[-1] - max([_LEAST_TEXT, *words])
    if over > 0 and spare > 0:
        widths[-1] -= min(over, spare)
        over -= min(over, spare)
    if over <= 0:
        return widths, _GAP
    over -= (len(_GAP) - 1) * (len(widths) - 1)
    for at, width in enumerate(widths[:-1]):
        body = max([_LEAST_HEAD, *(len(row[at]) for row in rows[1:])])
        if over > 0 and body < width:
            widths[at] -= min(over, width - body)
            over -= min(over, width - body)
    names = [at for at in range(len(widths)) if any(not _WHOLE.fullmatch(row[at]) for row in rows[1:] or rows)]
    while over > 0 and names and widths[widest := max(names, key=widths.__getitem__)] > _LEAST_NAME:
        widths[widest] -= 1
        over -= 1
    return widths, _GAP[1:]


def _laid_out(row: Sequence[str], widths: Sequence[int], *, head: bool) -> Iterator[list[str]]:
    """A row as one line, or more if its last cell has more words than fit."""
    import textwrap

    fit = (lambda cell, room: cell[:room]) if head and len(widths) > 2 else shortened
    cells = [fit(cell, room) for cell, room in zip(row[:-1], widths, strict=False)]
    last, room = row[-1], widths[-1]
    parts = textwrap.wrap(last, room, break_long_words=False) if len(last) > room and " " in last else [fit(last, room)]
    yield [*cells, parts[0]]
    for other in parts[1:]:
        yield [*("" for _ in cells), other]


def shortened(text: str, most: int) -> str:
    """ "blk.0.attn_output.weight" as "blk.0.a...weight": the middle is left out if it is longer than `most`."""
    if len(text) <= most or most < len(_LEFT_OUT) + 2:
        return text[:most] if len(text) > most else text
    kept = most - len(_LEFT_OUT)
    return text[: kept // 2] + _LEFT_OUT + text[len(text) - (kept - kept // 2) :]
