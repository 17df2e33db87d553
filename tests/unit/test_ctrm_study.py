"""The study: its candidates, what is measured of them, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from evolution.ctrm.contract import CtrmLimits
from evolution.fitness.contract import Pair, SearchData
from evolution.fitness.retrieval import RetrievalFitness
from image.compose import compose
from tests.studies.ctrm import tables
from tests.studies.ctrm.draws import draws
from tests.studies.ctrm.rows import Row, measure_rows
from vboot.client.bridge import RustNeuralBridge

PAIRS = [Pair(f"what is thing {number}", f"the {number}th thing is one of {number + 7}") for number in range(12)]
BLOCKS = [PAIRS[:4], PAIRS[4:8], PAIRS[8:]]


def measured(model: Path, library: Path, count: int) -> tuple[list[Row], str, str]:
    """Rows of a model, and its digest before and after."""
    fitness = RetrievalFitness(SearchData((), (), ()), seed=1)
    with RustNeuralBridge(library=library, energy=False) as bridge:
        bridge.initialize(model)
        with bridge.client() as machine:
            some = draws(machine.tensors(), count, seed=1)
            assert [draw.size for draw in some] == [draw.size for draw in draws(machine.tensors(), count, seed=1)]
            before = machine.digest().model
            rows = list(measure_rows(bridge, "M", some, fitness, BLOCKS))
            return rows, before, machine.digest().model


@pytest.mark.parametrize(("kind", "tiers"), [("F16", 6), ("Q8_0", 3)])
def test_candidates_of_every_tier_are_measured_and_taken_back(
    library: Path, tmp_path: Path, kind: str, tiers: int
) -> None:
    rows, before, after = measured(compose("tiny", tmp_path / "m.gguf", type=kind).path, library, 2 * tiers)  # type: ignore[arg-type]
    assert before == after
    assert len({row.tier for row in rows}) == tiers
    for row in rows:
        assert len(row.blocks) == len(BLOCKS)
        assert row.values["total_norm"] > 0
        assert ("vector_norm" in row.values) != ("matrix_norm" in row.values)
        assert row.fall != 0


def row(tier: str, size: float, norm: float, fall: float, *blocks: tuple[float, bool]) -> Row:
    return Row("M", tier, size, {"total_norm": norm}, fall, blocks)


ROWS = [
    row("a", 1.0, 0.1, 0.0, (1.0, True), (0.9, True)),
    row("a", 2.0, 0.2, 0.2, (0.9, False), (0.1, False)),
    row("a", 3.0, 9.0, 0.9, (0.0, False), (0.9, False)),
]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_the_table_of_tiers_counts_what_degraded_was_refused_and_passed() -> None:
    assert cells(tables.tiers(ROWS)) == [
        ["M", "a", "1 to 1", "1", "0%", "0%", "100%", "0.0%"],
        ["M", "a", "2 to 2", "1", "100%", "0%", "50%", "100.0%"],
        ["M", "a", "3 to 3", "1", "100%", "100%", "0%", ""],
    ]


def test_the_onset_of_harm_is_found() -> None:
    assert cells(tables.norms(ROWS)) == [["M", "a", "3", "2", "0.1", "0.2"]]
    assert cells(tables.values(ROWS)) == [["total_norm", f"{CtrmLimits().total_norm:g}", "M", "0.1", "0.2", "9"]]


def test_the_halves_of_each_tier_share_no_candidate() -> None:
    def outcomes(rows: Sequence[Row]) -> list[tuple[float, bool]]:
        return [block for each in rows for block in each.blocks]

    computed, corrected = tables.halves([*ROWS, row("b", 1.0, 0.1, 0.0, (0.5, True))])
    assert computed == outcomes(ROWS[1:2])
    assert [good for _, good in corrected] == [good for _, good in computed]
    assert corrected[0][0] == pytest.approx(0.5, abs=0.2)
    assert cells(tables.scores([("x", computed)])) == [["x", "0.4100", "1 of 2", "0.0%"]]
