"""Counts of a torture test, and their text. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse

_CODES = {
    -32602: "wrong parameters",
    1001: "no such tensor",
    1002: "protected",
    1003: "outside",
    1004: "does not fit",
    1005: "not finite",
    1006: "confidence",
    1007: "stale",
    1008: "changes nothing",
    1011: "CRC",
    1013: "too many edits",
    1019: "type",
    1020: "id used",
}


@dataclass
class Tally:
    """Counts of the actions whose replies were as predicted."""

    cycles: int = 0
    mutations: int = 0
    edits: Counter[str] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    bytes_compared: int = 0

    def note_edits(self, edits: tuple[Edit, ...]) -> None:
        """Count the edits of an accepted mutation."""
        self.mutations += 1
        self.edits.update(kind_of(edit) for edit in edits)


def kind_of(edit: Edit) -> str:
    """The kind of an edit, a sparse or seeded one with its variant."""
    match edit:
        case Dense():
            return "dense"
        case Sparse():
            return f"sparse {edit.op}"
        case LowRank():
            return "low_rank"
        case Seeded():
            return f"seeded {edit.form}"
        case Program():
            return "program"


# The first wrong byte ends a run, so every summary of a run has none.


def progress(tally: Tally, seconds: float, *, cycles: int | None) -> str:
    """One line."""
    of = f" of {cycles:,}" if cycles is not None else ""
    rate = tally.cycles / seconds if seconds else 0.0
    refused = sum(tally.refusals.values())
    return (
        f"{tally.cycles:,}{of} cycles, {tally.mutations:,} mutations, {refused:,} refusals,"
        f" {tally.events['worker deaths']} worker deaths, {rate:,.0f} cycles/s, wrong bytes 0"
    )


def summary(tally: Tally, seconds: float) -> str:
    """Several lines."""
    edits = ", ".join(f"{kind} {count:,}" for kind, count in sorted(tally.edits.items()))
    codes = sorted(tally.refusals.items())
    refusals = ", ".join(f"{code} {_CODES.get(code, '')} {count:,}".replace("  ", " ") for code, count in codes)
    events = ", ".join(f"{what} {count:,}" for what, count in sorted(tally.events.items()))
    return (
        f"cycles {tally.cycles:,} in {seconds:.0f} s\n"
        f"mutations {tally.mutations:,}, their edits: {edits}\n"
        f"refusals {sum(tally.refusals.values()):,}: {refusals}\n"
        f"{events}\n"
        f"bytes compared {tally.bytes_compared:,}, wrong bytes 0"
    )
