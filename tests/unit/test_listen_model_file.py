"""`vector_boot --listen`: a model file that changes while it is served."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.listening import (
    HELLO,
    PATIENCE,
    beat_on,
    code,
    listening,
    result,
    wait_for_next_worker,
)


def overwrite(path: Path) -> None:
    """Change one weight's byte in place."""
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGE = {
    "id": "1" * 32,
    "base_generation": 0,
    "confidence": 0.9,
    "edits": [
        {"kind": "seeded", "tensors": "blk.*.weight", "seed": "1" * 16, "form": "normal", "density": 0.5, "scale": 0.5}
    ],
}


@pytest.mark.parametrize("change", [overwrite, cut])
@pytest.mark.parametrize("method", ["digest", "embed", "mutate", "read"])
def test_a_changed_model_file_is_an_emergency(
    executable: Path, model: Path, tmp_path: Path, change: Any, method: str
) -> None:
    every: dict[str, dict[str, Any]] = {
        "digest": {},
        "embed": {"texts": ["a text"]},
        "mutate": CHANGE,
        "read": {"tensor": "token_embd.weight", "bytes": 64},
    }
    params = every[method]
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "10000") as machine:
        port = machine.connect()
        assert result(port, "digest")["model"]
        change(mine)
        refused = port.request(method, params, timeout=PATIENCE).error
        assert refused is not None
        assert refused["code"] == 1016
        assert "the model's file was" in refused["message"]
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert result(port, "stats")["generation"] == 0
        port.close()
        machine.process.terminate()
        assert machine.process.wait(PATIENCE) == 0
        assert machine.process.stdout is not None
        assert machine.process.stdout.read().count("vector_boot: EMERGENCY: the model's file was") == 1


@pytest.mark.parametrize("change", [overwrite, cut])
def test_a_beat_notices_it_too_and_so_does_the_next_worker(
    executable: Path, model: Path, tmp_path: Path, change: Any
) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "20") as machine:
        port = machine.connect()
        stats = result(port, "stats")
        change(mine)
        stats = beat_on(port, stats["heartbeats"] + 2)
        assert stats["state"] == "emergency"
        os.kill(stats["worker"]["pid"], signal.SIGBUS)  # how a truncated file would have ended it
        wait_for_next_worker(machine, stats["worker"]["pid"])
        port.close()
        port = machine.connect()
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert result(port, "stats")["worker"]["restarts"] == 1
        assert code(port, "digest", {}) == 1016
        port.close()


def test_a_worker_killed_by_a_truncated_file_comes_back_in_emergency(
    executable: Path, model: Path, tmp_path: Path
) -> None:
    """The file is truncated between two beats, and the worker is killed before it checks the file."""
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "10000") as machine:
        port = machine.connect()
        worker = result(port, "stats")["worker"]["pid"]
        cut(mine)
        os.kill(worker, signal.SIGBUS)
        wait_for_next_worker(machine, worker)
        port.close()
        port = machine.connect()
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert code(port, "digest", {}) == 1016
        assert code(port, "digest", {"tensors": 5}) == -32602  # parameters are checked before the mode, in every thread
        port.close()


def test_a_file_that_is_replaced_by_name_is_no_change(executable: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "20") as machine:
        port = machine.connect()
        before = result(port, "digest")["model"]
        shutil.copy(model, tmp_path / "new.gguf")
        overwrite(tmp_path / "new.gguf")
        (tmp_path / "new.gguf").replace(mine)
        stats = result(port, "stats")
        assert beat_on(port, stats["heartbeats"] + 2)["state"] == "beating"
        assert result(port, "digest")["model"] == before
        port.close()
