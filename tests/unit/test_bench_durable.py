"""What the benchmarks of durable changes are made of: the edits, the stores beside us, and pipelined requests."""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.bench.durable_edits import redo_bytes, small_edits
from tests.bench.durable_stores import SQLITE, Store, served_sqlite
from tests.bench.pipelined import MOST, PipelinedClient
from tests.bench.report import render
from tests.bench.results import Setting
from tests.support.local_machine import local_machine
from vboot.client.machine import connect
from vboot.errors import ToolError, VbootError
from vboot.weights.edits import Dense


def test_every_small_edit_changes_its_place() -> None:
    last: dict[int, bytes] = {}
    for edit in islice(small_edits(), 5000):
        assert isinstance(edit, Dense)
        assert len(edit.data) == 32
        assert last.get(edit.offset) != edit.data
        last[edit.offset] = edit.data
    assert len(last) == 1000


def test_the_bytes_to_keep_are_the_recipe_and_the_data() -> None:
    one, more = (redo_bytes([Dense("w", 0, bytes(size))]) for size in (4, 9))
    assert more - one == 5
    assert 50 < one < 70


def test_sqlite_in_its_process_commits_counts_and_survives_its_death(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with Store(Path(sys.executable), SQLITE, path) as store:
        assert store.commit(100) > 0
        assert store.commit(100, rows=5, transactions=3) > 0
        store.kill()
    with Store(Path(sys.executable), SQLITE, path) as store:
        assert store.count()[1] == 16
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert {len(row) for (row,) in database.execute("SELECT redo FROM log")} == {100}


def test_a_store_that_cannot_open_its_file_is_reported(tmp_path: Path) -> None:
    with Store(Path(sys.executable), SQLITE, tmp_path) as store, pytest.raises(ToolError, match="unable to open"):
        store.commit(1)


def test_sqlite_behind_a_socket_commits_what_it_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    row = os.urandom(1000)
    with served_sqlite(path) as served:
        assert served.commit(row) > 0
        assert served.commit(b"x") > 0
    with sqlite3.connect(path) as database:
        assert [found for (found,) in database.execute("SELECT redo FROM log")] == [row, b"x"]


def test_pipelined_edits_are_made_in_order(tmp_path: Path) -> None:
    edits = small_edits()
    with (
        local_machine(tmp_path, "--energy", "off") as running,
        connect(running.socket) as machine,
        PipelinedClient(running.socket) as client,
    ):
        assert client.mutate(list(islice(edits, MOST)), generation=0) > 0
        assert client.mutate(list(islice(edits, 3)), generation=MOST) > 0
        assert machine.hello().generation == MOST + 3
        with pytest.raises(VbootError, match="refused"):
            client.mutate(list(islice(edits, 2)), generation=1)
        assert machine.hello().generation == MOST + 3


@pytest.mark.parametrize("part", ["durable_latency", "recovery_time", "reload_gap", "beat_load"])
def test_a_quick_run_measures_every_contender(part: str, tmp_path: Path) -> None:
    result = importlib.import_module(f"tests.bench.{part}").run(Setting(True, tmp_path, lambda _text: None))
    assert result.cases
    assert result.findings
    for case in result.cases:
        assert all(value > 0 for samples in case.samples.values() for value in samples), case.name
    assert result.title in render([result], host={})
