"""The answer of a verb, and the form of sizes and tables in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GAP, _LEFT_OUT = "  ", "..."
_LEAST_TEXT, _LEAST_NAME = 20, 8
"""Characters that a column of text and a column of names keep on a narrow terminal."""
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


def columns(rows: Iterable[Sequence[str]], *, width: int | None = None) -> str:
    """Rows of cells as lines with aligned columns, two spaces apart.

    On a terminal (or where a `width` is given) a table that is too wide is made to fit: the words of its last column go
    on in further lines, else the widest names are shortened in their middle. Numbers and digests stay whole.
    """
    lines = [list(row) for row in rows]
    natural = [max(map(len, column)) for column in zip(*lines, strict=True)]
    most = width or text_width()
    widths = natural if most is None else _fitted(lines, natural, most)
    return "\n".join(
        "  ".join(cell.ljust(room) for cell, room in zip(line, widths, strict=True)).rstrip()
        for row in lines
        for line in _laid_out(row, widths)
    )


def _fitted(rows: Sequence[Sequence[str]], natural: Sequence[int], most: int) -> list[int]:
    """The widths of the columns so that no line is longer than `most`, as far as that can be."""
    widths = list(natural)
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - most
    if over > 0 and widths[-1] - over >= _LEAST_TEXT and any(" " in row[-1] for row in rows):
        widths[-1] -= over
        return widths
    names = [at for at in range(len(widths)) if any(not _WHOLE.fullmatch(row[at]) for row in rows[1:] or rows)]
    while over > 0 and names and widths[widest := max(names, key=widths.__getitem__)] > _LEAST_NAME:
        widths[widest] -= 1
        over -= 1
    return widths


def _laid_out(row: Sequence[str], widths: Sequence[int]) -> Iterator[list[str]]:
    """A row as one line, or more if its last cell has more words than fit."""
    import textwrap

    *cells, last = [
        cell if " " in cell and at == len(row) - 1 else shortened(cell, widths[at]) for at, cell in enumerate(row)
    ]
    first, *others = textwrap.wrap(last, widths[-1]) if len(last) > widths[-1] else [last]
    yield [*cells, first]
    for other in others:
        yield [*("" for _ in cells), other]


def shortened(text: str, most: int) -> str:
    """ "blk.0.attn_output.weight" as "blk.0.a...weight": the middle is left out if it is longer than `most`."""
    if len(text) <= most or most < len(_LEFT_OUT) + 2:
        return text[:most] if len(text) > most else text
    kept = most - len(_LEFT_OUT)
    return text[: kept // 2] + _LEFT_OUT + text[len(text) - (kept - kept // 2) :]
