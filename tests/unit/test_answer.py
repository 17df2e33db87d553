"""Tables fit a terminal, and are whole anywhere else."""

from __future__ import annotations

import pytest

from cli.answer import columns

TENSORS = [
    ("tensor", "type", "shape", "bytes", ""),
    ("encoder.layer.11.attention.output.dense.weight", "F16", "384 x 1536", "1179648", "protected"),
    ("short", "F32", "384", "1536", ""),
]
DIGESTS = [("a.tensor.with.a.long.name", "0123456789abcdef" * 4), ("model", "fedcba9876543210" * 4 + " (generation 0)")]
STATE = [("state", "beating for 3 min, with more words than fit into one line of a narrow terminal"), ("late", "1 ms")]


def test_a_table_that_goes_nowhere_in_particular_is_whole() -> None:
    assert all(cell in columns(TENSORS) for row in TENSORS for cell in row)


@pytest.mark.parametrize("width", [60, 72, 80, 120])
def test_a_table_fits_its_terminal_with_all_its_numbers(width: int) -> None:
    lines = columns(TENSORS, width=width).splitlines()
    assert len(lines) == len(TENSORS)
    assert max(map(len, lines)) <= width
    assert "384 x 1536" in lines[1]
    assert "1179648" in lines[1]
    assert lines[2].startswith("short ")


def test_words_of_the_last_column_go_on_in_the_next_line() -> None:
    lines = columns(STATE, width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(line[7:] for line in lines[:-1]) == STATE[0][1]
    assert lines[-1] == "late   1 ms"


def test_digests_stay_whole() -> None:
    lines = columns(DIGESTS, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith(DIGESTS[0][1])
    assert lines[1].endswith(DIGESTS[1][1].split()[0])
    assert lines[2].strip() == "(generation 0)"


def test_a_table_of_numbers_moves_together_before_it_loses_anything() -> None:
    rows = [("record", "generation", "verdict", "confidence", "changed"), ("12", "3", "applied", "0.95", "12.5 KiB")]
    natural = columns(rows)
    assert columns(rows, width=max(map(len, natural.splitlines()))) == natural
    for width in (44, 40, 37):
        lines = columns(rows, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert lines[1].split() == ["12", "3", "applied", "0.95", "12.5", "KiB"]


def test_a_terminal_too_narrow_for_anything_loses_no_row() -> None:
    assert len(columns(TENSORS, width=3).splitlines()) == len(TENSORS)
