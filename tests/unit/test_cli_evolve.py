"""`vboot evolve` in process, on the real runtime: resumed, reported, refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from evolution.daemon.events import Progress
from evolution.daemon.log import read_events
from evolution.fitness import pairs_file
from evolution.fitness.contract import Pair
from evolution.surgeon.surgeon import GGUFSurgeon
from tests.support.evolution_run import small_model
from tests.support.evolve_words import ES, FEW, NONE, write_pairs
from tests.support.local_machine import tiny_model
from tests.support.vboot import Vboot
from vboot.client.bridge import RustNeuralBridge
from vboot.client.bridge_process import LIBRARY_VARIABLE, find_library


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


def test_a_run_in_process_and_its_report(vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path) -> None:
    outcome = vboot.json("evolve", "--in-process", "--folder", tmp_path / "run", *words, *ES)
    assert outcome["generations"] == 2
    assert outcome["evaluations"] >= 8
    assert outcome["evaluations_per_second"] > 0
    assert 0 <= outcome["share_outside_evaluation"] <= 1
    assert outcome["held_out"]["pairs"] >= 2
    assert set(outcome["held_out"]["metrics"]) >= {"mrr@10", "loss"}
    for compared in outcome["held_out"]["metrics"].values():
        for interval in compared.values():
            assert interval["low"] <= interval["value"] <= interval["high"]
        assert compared["difference"]["value"] == pytest.approx(
            compared["after"]["value"] - compared["before"]["value"]
        )
    assert outcome["accepted"] > 0
    assert outcome["held_out"]["metrics"]["loss"]["difference"]["value"] != 0
    for name in ("fitness", "latency", "energy"):
        ElementTree.parse(outcome["files"][name])
    assert json.loads(Path(outcome["files"]["report"]).read_text())["held_out"] == outcome["held_out"]
    assert "evolve: EvolutionDaemonV7 (Rust-Native) starts: strategy antithetic_es, tier output, seed 1" in vboot.err
    assert " pixel instructions" in vboot.err
    assert " evaluations done, " in vboot.err
    events = [event for _, event in read_events(Path(outcome["files"]["events"]))]
    assert len(events) > 10
    assert any(isinstance(event, Progress) and event.left_s is not None for event in events)

    again = vboot.json("evolve", "--report", tmp_path / "run")
    del outcome["files"], again["files"]
    assert again == outcome


def test_the_report_for_people_names_its_files_last(
    vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    assert vboot("evolve", "--in-process", "--folder", tmp_path / "run", *words) == 0
    lines = vboot.out.splitlines()
    model = lines[-2]
    assert lines[-1] == f"next: vboot build --model {model}    # makes an image of the improved model"
    assert [Path(line).name for line in lines[-7:-1]] == [
        "fitness.svg", "latency.svg", "energy.svg", "report.json", "events.jsonl", "model-000002.gguf",
    ]  # fmt: skip
    (held_out,) = [line for line in lines if "held-out pairs of" in line]
    assert held_out.endswith("with 95% intervals")
    assert any(line.startswith("mrr@10  ") for line in lines)
    assert vboot("evolve", "--report", tmp_path / "run", "--no-report") == 0
    assert "held-out" not in vboot.out
    with RustNeuralBridge() as bridge:
        bridge.initialize(Path(vboot.out.splitlines()[-1]))
        model = bridge.client().digest([]).model
    assert model == json.loads((tmp_path / "run" / "report.json").read_text())["model"]["after"]
    assert "generations accepted a change" in vboot.out


def test_the_same_command_goes_on(vboot: Vboot, words: tuple[str | Path, ...]) -> None:
    first = vboot.json("evolve", "--in-process", "--no-report", *words, *ES)
    assert first["generations"] == 2
    more = vboot.json("evolve", "--in-process", "--no-report", *words, *ES, "--generations", "3")
    assert "resumes" in vboot.err
    assert (more["generations"], more["folder"]) == (3, first["folder"])
    name = r"build/evolve/vectorland-[0-9a-f]{8}-pairs-[0-9a-f]{6}-antithetic_es-output-seed1-batch4-[0-9a-f]{6}"
    assert re.fullmatch(name, first["folder"])


def test_what_differs_from_the_run_in_a_folder_is_told_with_the_way_out(
    vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    run = ("evolve", "--in-process", "--no-report", *words, "--folder", "run", *NONE)
    assert vboot(*run) == 0
    other = tmp_path / "other.gguf"
    data = bytearray(tiny_model().read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    more = tmp_path / "more.jsonl"
    more.write_text(f"{(tmp_path / 'pairs.jsonl').read_text()}\n" + '{"query": "a new one", "document": "another"}')
    for change, outcome in (
        (("--model", other), "began with another model (model "),
        (("--batch", "5"), "began with another batch size, "),
        (("--seed", "2"), "has the seed 1, not 2; give the same --seed"),
        (("--tier", "norms"), "; give the same --tier"),
        (
            ("--data", more),
            f"{more} has other pairs than those that the run in run began with; give --folder run without --data ",
        ),
    ):
        assert vboot(*run, *change) == 1
        assert outcome in vboot.last_error()
        assert vboot.last_error().endswith(", or begin a new run with --folder DIR")
    assert vboot(*run) == 0


def test_a_run_goes_on_with_its_copy_when_its_pairs_have_changed(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path
) -> None:
    command = ("evolve", "--in-process", "--no-report", *words)
    first = vboot.json(*command, *NONE)
    origin = (Path(first["folder"]) / "origin.json").read_bytes()
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(lines[:-40]))
    more = vboot.json(*command, "--generations", "1")
    assert (more["folder"], more["generations"]) == (first["folder"], 1)
    copy = Path(first["folder"]) / "pairs.jsonl"
    assert f"{pairs} has changed since this run began, which goes on with its copy {copy}; --folder DIR" in vboot.err
    pairs.unlink()
    assert vboot.json(*command)["generations"] == 2
    assert vboot.json("evolve", "--report", first["folder"])["held_out"]["sha256"] in origin.decode()
    assert (Path(first["folder"]) / "origin.json").read_bytes() == origin


def test_a_run_goes_on_after_a_package_was_installed(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = [*pairs_file.read(pairs)]
    monkeypatch.setattr("evolution.fitness.debian.read_pairs", lambda *_, **__: tuple(described))
    command = ("evolve", "--in-process", "--model", tiny_model(), *FEW, "--no-report")
    first = vboot.json(*command, *NONE)
    described += [Pair(f"a new package {number}", f"what it does, {number}") for number in range(100)]
    more = vboot.json(*command, "--generations", "1")
    assert (more["folder"], more["generations"]) == (first["folder"], 1)


def test_a_run_without_a_copy_needs_the_pairs_it_began_with(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path
) -> None:
    command = ("evolve", "--in-process", "--no-report", *words, *NONE)
    folder = Path(vboot.json(*command)["folder"])
    (folder / "pairs.jsonl").unlink()
    assert vboot(*command) == 0
    copy = (folder / "pairs.jsonl").read_bytes()
    (folder / "pairs.jsonl").write_bytes(copy.replace(b"storm", b"STORM"))
    assert vboot(*command) == 1
    assert "pairs.jsonl, the run's copy of its pairs, has been changed; restore it" in vboot.last_error()
    (folder / "pairs.jsonl").unlink()
    pairs.write_text("\n".join(pairs.read_text().splitlines()[:-40]))
    assert vboot(*command) == 1
    assert vboot.last_error().endswith(
        f"began with, and it has no copy; give the original pairs with --folder {folder} --data FILE, "
        "or begin a new run with --folder DIR"
    )


def test_the_folder_tells_the_model_and_finds_runs_of_earlier_versions(
    vboot: Vboot, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    command = ("evolve", "--file", "out.gguf", "--no-report", *words, *NONE)
    first = Path(vboot.json(*command)["folder"])
    other = tmp_path / "other" / "vectorland.gguf"
    other.parent.mkdir()
    data = bytearray(tiny_model().read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert vboot.json(*command, "--model", other)["folder"] != str(first)
    earlier = first.with_name("vectorland-pairs-antithetic_es-output-1")
    first.rename(earlier)
    assert vboot.json(*command)["folder"] == str(earlier)


def test_files_of_one_name_in_two_folders_are_two_runs(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path
) -> None:
    command = ("evolve", "--file", "out.gguf", "--no-report", *words, *NONE)
    lines = pairs.read_text().splitlines()
    folders = []
    for name, text in (("a", lines), ("b", lines[:-40])):
        Path(name).mkdir()
        Path(name, "pairs.jsonl").write_text("\n".join(text))
        folders.append(vboot.json(*command, "--data", f"{name}/pairs.jsonl")["folder"])
    assert folders[0] != folders[1]
    assert vboot.json(*command, "--data", f"b/../a/{pairs.name}")["folder"] == folders[0]


@pytest.mark.parametrize(
    "change", [("--batch", "5"), ("--kernels", "3"), ("--option", "pairs=3"), ("--data", "b/pairs.jsonl")]
)
def test_a_run_of_an_earlier_version_with_other_settings_is_another_run(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path, change: tuple[str, str]
) -> None:
    command = ("evolve", "--in-process", "--no-report", *words, "--model", small_model(), *NONE)
    Path("b").mkdir()
    Path("b/pairs.jsonl").write_text("\n".join(pairs.read_text().splitlines()[:-40]))
    first = Path(vboot.json(*command)["folder"])
    earlier = first.rename(first.with_name(f"{small_model().stem}-pairs-antithetic_es-output-1"))
    assert vboot.json(*command, *change)["folder"] not in (str(first), str(earlier))
    assert vboot.json(*command)["folder"] == str(earlier)


def test_the_library_is_built_where_it_is_missing(
    vboot: Vboot, words: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = os.environ["VECTOR_BOOT_LIBRARY"]
    monkeypatch.delenv("VECTOR_BOOT_LIBRARY")
    asked = []

    def build(**_: Any) -> Path:
        asked.append(1)
        monkeypatch.setenv("VECTOR_BOOT_LIBRARY", library)
        return Path(library)

    monkeypatch.setattr("cli.rust_reader.ready_library", build)
    for body in ("--in-process", "--file"):
        monkeypatch.delenv("VECTOR_BOOT_LIBRARY", raising=False)
        assert vboot("evolve", body, *(["m.gguf"] if body == "--file" else []), "--no-report", *words, *NONE) == 0
    assert len(asked) == 2


def test_a_kernel_of_a_plain_model_is_in_its_snapshot(
    vboot: Vboot, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain.gguf"
    GGUFSurgeon(small_model()).export(plain)
    monkeypatch.setattr("evolution.daemon.config.DaemonConfig.kernel_gain", -1.0)
    kernels = ("--kernels", "1", "--generations", "1", "--batch", "4", "--watch", "2")
    outcome = vboot.json("evolve", "--in-process", "--no-report", "--model", plain, "--data", pairs, *kernels)
    assert (outcome["kernels_injected"], outcome["alarms"]) == (1, 0)
    with RustNeuralBridge() as bridge:
        bridge.initialize(Path(outcome["files"]["model"]))
        assert bridge.client().digest([]).model == outcome["model"]["after"]


def test_a_run_of_little_time_does_one_generation(vboot: Vboot, words: tuple[str | Path, ...]) -> None:
    command = ("evolve", "--in-process", "--no-report", *words, "--generations", "100", "--minutes", "1e-9")
    for generations in (1, 2):
        outcome = vboot.json(*command)
        assert outcome["generations"] == generations
        assert outcome["stopped"].startswith("limit of ")


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (("--generations", "-1"), "expected a whole number of at least 0, got '-1'"),
        (("--batch", "1"), "expected at least 2 pairs, got '1'"),
        (("--watch", "0"), "expected at least 2 pairs, got '0'"),
        (("--minutes", "0"), "expected a positive number of minutes, got '0'"),
        (("--minutes", "nan"), "expected a positive number of minutes, got 'nan'"),
        (("--strategy", "luck"), "invalid choice: 'luck'"),
        (("--tier", "all"), "invalid choice: 'all'"),
        (("--option", "pairs"), "expected NAME=VALUE, got 'pairs'"),
        (("--mode", "file"), "invalid choice: 'file'"),
        (("--boot", "--in-process"), "not allowed with"),
        (("--strategy", "crossover"), "--cross and --strategy crossover must be given together"),
        (("--cross", "a", "b"), "--cross and --strategy crossover must be given together"),
        (("m", "--in-process"), "give either a running machine or one of --boot, --in-process, --file and --report"),
    ],
)
def test_wrong_usage(vboot: Vboot, given: tuple[str, ...], outcome: str) -> None:
    assert vboot("evolve", *given) == 2
    assert outcome in vboot.last_error()


def test_what_is_not_there(vboot: Vboot, pairs: Path, tmp_path: Path) -> None:
    data = ("--data", pairs)
    model = ("--model", tiny_model())
    for words, outcome in (
        ((*model, "--in-process", "--data", "gone.jsonl"), "cannot read gone.jsonl: No such file or directory"),
        (("--in-process", *data), "the model build/vectorland.gguf does not exist; run `vboot build`"),
        ((*model, *data), "no machine runs in build/run; boot one with `vboot boot`"),
        ((*model, *data, "gone"), "gone is not there; give the folder that boot printed, or an evolution socket"),
        ((*model, *data, "--report", tmp_path), f"{tmp_path} is not the folder of a run"),
        ((*model, *data, "--in-process", "--option", "steps=3"), "has no option 'steps'"),
    ):
        assert vboot("evolve", *words) == 1
        assert outcome in vboot.last_error()


def test_a_report_on_another_model_or_other_data_is_refused(
    vboot: Vboot, words: tuple[str | Path, ...], pairs: Path, tmp_path: Path
) -> None:
    assert vboot("evolve", "--in-process", "--no-report", "--folder", "run", *words) == 0
    other = tmp_path / "other.gguf"
    data = bytearray(tiny_model().read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert vboot("evolve", "--report", "run", "--model", other) == 1
    assert "give the model that the run began with" in vboot.last_error()
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(lines[:-40]))
    Path("run/pairs.jsonl").unlink()
    assert vboot("evolve", "--report", "run") == 1
    assert vboot.last_error().endswith("no copy; give the original pairs with --data, or use --no-report")
    Path("run/origin.json").write_text('{"model": 1}')
    assert vboot("evolve", "--report", "run") == 1
    for command in (("--report", "run"), ("--in-process", "--no-report", "--folder", "run", *words)):
        assert vboot("evolve", *command) == 1
        assert vboot.last_error() == (
            "vboot: error: run/origin.json does not say what the run began with; restore it from a backup, or remove "
            "run/origin.json and go on with the run, which writes it again"
        )
    Path("run/origin.json").unlink()
    assert vboot("evolve", "--report", "run") == 1
    assert vboot.last_error() == ("vboot: error: run/origin.json is missing; go on with the run first, which writes it")
