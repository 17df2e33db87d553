"""`vboot evolve` on a running machine, on runs that are crossed, on a file; stopped by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from evolution.daemon.events import Alarm, ConnectionFailed
from evolution.daemon.log import EventFile
from tests.support.evolve_words import ES, FEW, write_pairs
from tests.support.local_machine import local_machine, tiny_model
from tests.support.vboot import Vboot
from vboot.client.bridge import RustNeuralBridge
from vboot.client.bridge_process import LIBRARY_VARIABLE, find_library
from vboot.client.machine import connect


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the library, so that cargo is not asked each time whether it is up to date."""
    monkeypatch.setenv(LIBRARY_VARIABLE, str(find_library()))


@pytest.fixture
def words(pairs: Path) -> tuple[str | Path, ...]:
    """What all commands here share: the tiny model, the pairs, little work."""
    return ("--model", tiny_model(), "--data", pairs, *FEW)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    with local_machine(tmp_path) as local:
        yield local.socket


def test_a_running_machine_ends_up_with_the_runs_weights(
    vboot: Vboot, words: tuple[str | Path, ...], machine: Path
) -> None:
    outcome = vboot.json("evolve", machine, "--no-report", *words, "--strategy", "random_search")
    with connect(machine) as client:
        assert client.digest([]).model == outcome["model"]["after"]
        history = client.request("history").result["records"]
    assert sum(record["kind"] == "mutate" for record in history) == outcome["applied"]


def test_a_run_and_other_clients_use_one_machine(vboot: Vboot, words: tuple[str | Path, ...], machine: Path) -> None:
    is_over, embedded = threading.Event(), 0

    def embed() -> None:
        nonlocal embedded
        with connect(machine, client="another") as client:
            while not is_over.is_set():
                embedded += len(client.embed(["one text", "a longer text " * 20]).vectors)

    with connect(machine, client="the second") as second, ThreadPoolExecutor() as pool:
        loop = pool.submit(embed)
        try:
            outcome = vboot.json("evolve", machine, "--no-report", *words, *ES, "--generations", "6")
        finally:
            is_over.set()
        loop.result()
        assert embedded > 0
        assert (outcome["generations"], outcome["alarms"], outcome["unreached"]) == (6, 0, None)
        assert second.digest([]).model == outcome["model"]["after"]


def test_a_machine_with_other_weights_is_refused_unless_it_is_taken_over(
    vboot: Vboot, words: tuple[str | Path, ...], machine: Path
) -> None:
    change = ("--set", "token_embd.weight[0]=0.5", "--confidence", "0.9")
    assert vboot("mutate", machine, *change) == 0
    refused = vboot.json("evolve", machine, "--no-report", *words, code=1)
    assert refused["generations"] == 0
    assert "are not from this run" in refused["stopped"]
    outcome = vboot.json("evolve", machine, "--no-report", *words, "--takeover")
    with connect(machine) as client:
        assert client.digest([]).model == outcome["model"]["after"]


def test_two_runs_are_crossed(vboot: Vboot, words: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in ("1", "2"):
        assert vboot("evolve", "--file", "m.gguf", "--folder", seed, "--no-report", *words, "--seed", seed) == 0
    outcome = vboot.json(
        "evolve", "--in-process", "--no-report", *words, "--strategy", "crossover", "--cross", "1", "2"
    )
    assert outcome["evaluations"] > 0
    assert "-crossover-output-seed1-" in outcome["folder"]
    assert vboot("evolve", "--in-process", *words, "--strategy", "crossover", "--cross", "1", "3") == 1
    assert vboot.last_error() == "vboot: error: 3 is not the folder of a run; give the folder that evolve printed"
    assert not Path("3").exists()
    monkeypatch.setattr("cli.evolve.verb.MAX_EDITS", 3)
    assert vboot("evolve", "--in-process", *words, "--folder", "c", "--strategy", "crossover", "--cross", "1", "2") == 1
    assert "the runs in 1 and 2 have " in vboot.last_error()
    assert vboot.last_error().endswith("a crossover allows at most 3; give runs with fewer or smaller moves")
    assert not Path("c").exists()


def test_a_file(vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    outcome = vboot.json("evolve", "--file", out, "--no-report", *words)
    assert outcome["accepted"] == outcome["applied"] > 0
    assert outcome["files"]["model"] == str(out)
    with RustNeuralBridge() as bridge:
        bridge.initialize(out)
        assert bridge.client().digest([]).model == outcome["model"]["after"] != outcome["model"]["before"]
    assert vboot("evolve", "--file", "none.gguf", "--folder", "other", "--no-report", *words, "--generations", "0") == 0
    assert vboot.out.splitlines()[-1] == "none.gguf was not written, as no change was accepted"
    assert not Path("none.gguf").exists()


def test_a_file_that_cannot_be_written_is_refused_before_the_search(
    vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    model = tmp_path / "mine.gguf"
    model.write_bytes(tiny_model().read_bytes())
    for out, outcome in (
        (model, f"{model} is the initial model of the run, which is needed to resume it; give --file another path"),
        (tmp_path, f"{tmp_path} is a folder; give --file the path of a file"),
        ("gone/out.gguf", "the folder gone does not exist; give --file a path in a writable folder"),
    ):
        assert vboot("evolve", "--folder", "run", *words, "--model", model, "--file", out) == 1
        assert vboot.last_error() == f"vboot: error: {outcome}"
        assert not Path("run").exists()
    assert model.read_bytes() == tiny_model().read_bytes()


def test_the_report_says_that_a_machine_was_not_updated(
    vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    with local_machine(tmp_path) as local:
        assert vboot("evolve", local.socket, "--folder", "run", "--no-report", *words) == 0
        assert "machine " not in vboot.out
        socket = local.socket
    with closing(EventFile(Path("run/events.jsonl"))) as log:
        log(ConnectionFailed(str(socket), "no machine listens", 1, 0.5))
        log(Alarm("body", "3 failures in a row"))
    assert vboot("evolve", "--report", "run", "--no-report") == 0
    (machine,) = [line for line in vboot.out.splitlines() if line.startswith("machine ")]
    assert machine.endswith("does not have the latest weights: no machine listens")
    (alarms,) = [line for line in vboot.out.splitlines() if line.startswith("alarms ")]
    assert alarms.endswith("1; the latest: body: 3 failures in a row")


def test_a_signal_stops_it_in_order(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["evolve", "--in-process", "--folder", folder, *words, "--generations", "100000", "--json"]
    with _started(command, tmp_path) as process:
        _wait_for(folder / "state.json", process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, err
    error = json.loads(out)["error"]
    message = f"terminated: the run in {folder} is complete up to here; the same command resumes it"
    assert error == {"type": "Terminated", "message": message, "folder": str(folder)}
    assert "evolve: stopped: " in err


def test_a_second_signal_does_not_wait(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["evolve", "--in-process", "--folder", folder, *words, "--generations", "100000"]
    with _started(command, tmp_path) as process:
        _wait_for(folder / "state.json", process)
        process.send_signal(signal.SIGSTOP)  # so that both others are there when it looks
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=600)
    assert process.returncode in (130, 143)
    assert "resumes it" not in err
    assert "Traceback" not in err


@contextmanager
def _started(words: list[Any], folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "builder", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 600  # only ends a hang
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"there is no {path.name}"
        time.sleep(0.02)
