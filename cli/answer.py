"""The answer of a verb, and the form of sizes and tables in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns, two spaces apart."""
    lines = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
