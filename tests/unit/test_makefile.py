"""The Makefile passes on any name unchanged, runs no part of it, and ignores variables of other programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NASTY = [
    "my model.gguf", "a;touch ran", "$(shell touch ran)", "$(error no)", "`touch ran`", "$(touch ran)", "a$b${c}$$d",
    "q'u\"o", "h#ash", "#", "new\nline", "new\n\ttouch ran", "by\udcffte", "x=y,%", "-x", "--help", "back\\slash",
    "end\\", "*", "~", "a & touch ran", "a | touch ran", "a > ran", ":=", "x" * 200,
]  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile beside a Python that records what it was started with, and scripts that do nothing."""
    folder = tmp_path / "checkout"
    (folder / "builder").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("install_deps.sh", "make_venv.sh"):
        (folder / "builder" / name).write_text("")
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s" "$*" >words\nprintf "%s" "$VBOOT_MODEL" >model\nenv >environment\n')
    python.chmod(0o755)
    return folder


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VBOOT_", "MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


@pytest.mark.parametrize("target", ["image", "boot", "demo"])
def test_a_plain_name_is_handed_on(checkout: Path, target: str) -> None:
    done = make(checkout, target, "MODEL=tiny", "TYPE=F32")
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout / "model").read_text() == "tiny"
    assert "VBOOT_TYPE=F32" in (checkout / "environment").read_text().splitlines()


@pytest.mark.parametrize("name", NASTY)
def test_any_name_arrives_to_the_byte_and_nothing_in_it_runs(checkout: Path, name: str) -> None:
    for words in (["image"], ["-n", "image"]):
        done = make(checkout, *words, f"MODEL={name}")
        assert (done.returncode, done.stderr) == (0, "")
        assert not (checkout / "ran").exists()
    assert (checkout / "model").read_bytes() == os.fsencode(name)
    assert (checkout / "words").read_text() == "-m builder build"


def test_variables_of_other_programs_do_not_count(checkout: Path) -> None:
    make(checkout, "image", MODEL="other", TYPE="string")
    assert (checkout / "model").read_text() == ""
    make(checkout, "image", "-e", MODEL="other", TYPE="string")
    assert (checkout / "model").read_text() == ""
    make(checkout, "image", MODEL="other", VBOOT_MODEL="ours.gguf")
    assert (checkout / "model").read_text() == "ours.gguf"
    make(checkout, "image", "MODEL=mine.gguf", MODEL="other", VBOOT_MODEL="ours.gguf")
    assert (checkout / "model").read_text() == "mine.gguf"


def test_the_numbers_of_torture_are_handed_on_quoted(checkout: Path) -> None:
    make(checkout, "torture", "CYCLES=5;touch ran", "SEED=$(shell touch ran)", HOURS="9")
    assert (checkout / "words").read_text() == "-m tests.torture --cycles 5;touch ran --seed $(shell touch ran)"
    assert not (checkout / "ran").exists()


def test_the_version_is_stated_once() -> None:
    """Cargo.toml states it; the Python package reads it from there, the executable is compiled with it."""
    stated = tomllib.loads((ROOT / "vector_boot" / "Cargo.toml").read_text())["package"]["version"]
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    assert version("vector-boot") == stated, "the installed package is older than the sources: run make"
    for lock in ("vector_boot/Cargo.lock", "vector_boot/fuzz/Cargo.lock"):
        packages = tomllib.loads((ROOT / lock).read_text())["package"]
        assert [entry["version"] for entry in packages if entry["name"] == "vector_boot"] == [stated]
    answer = subprocess.run([sys.executable, "-m", "builder", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"vboot {stated}\n"
    executable = ROOT / "vector_boot" / "target" / "release" / "vector_boot"
    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"vector_boot {stated}\n"


@pytest.fixture
def used(checkout: Path) -> Path:
    """A checkout in which something was built, evolved and booted; this process stands in for a machine's."""
    shutil.copy(ROOT / "builder" / "clean.sh", checkout / "builder")
    for name in (
        "build/run/1",
        "build/run/two words",
        "build/evolve/run 1",
        "build/test",
        "vector_boot/target",
        "dist",
    ):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "file").touch()
    for name in ("build/vmlinuz", "build/.vboot-settings.json"):
        (checkout / name).touch()
    return checkout


def left(folder: Path) -> set[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in names if not name.startswith(("builder/", "Makefile"))}


def runs(folder: Path, run: str, *, start_ticks: int | None = None) -> None:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
    record = {"inputs": [{"pid": 1}], "pid": os.getpid(), "start_ticks": ticks if start_ticks is None else start_ticks}
    (folder / run / "machine.json").write_text(json.dumps(record, indent=2))


def test_clean_keeps_evolved_weights_and_says_so(used: Path) -> None:
    done = make(used, "clean")
    assert (done.returncode, done.stderr) == (0, "")
    expected = "clean: kept build/evolve (runs of `vboot evolve`: 1); `make distclean` removes everything\n"
    assert done.stdout == expected
    assert left(used) == {"build/evolve/run 1/file"}


def test_clean_keeps_an_evolved_run_of_another_folder(used: Path) -> None:
    shutil.rmtree(used / "build/evolve")
    for folder in ("build/my run", "build/deep/.hidden", "build/run/evolved"):
        (used / folder / "moves").mkdir(parents=True)
        for name in ("run.json", "state.json", "moves/000001.move"):
            (used / folder / name).touch()
    (used / "build/deep/file").touch()
    (used / "build/only run.json").mkdir()
    (used / "build/only run.json/run.json").touch()
    (used / "outside").mkdir()
    (used / "outside/file").touch()
    (used / "build/link").symlink_to(used / "outside")
    done = make(used, "clean")
    assert (done.returncode, done.stderr) == (0, "")
    kept = ("build/deep/.hidden", "build/my run", "build/run/evolved")
    assert done.stdout.startswith("clean: kept ")
    assert all(f" {folder} (a run of `vboot evolve`)" in done.stdout for folder in kept)
    names = ("run.json", "state.json", "moves/000001.move")
    assert left(used) == {"outside/file", *(f"{folder}/{name}" for folder in kept for name in names)}


def test_clean_keeps_the_folder_of_a_machine_that_runs(used: Path) -> None:
    runs(used, "build/run/two words")
    runs(used, "build/run/1", start_ticks=1)
    done = make(used, "clean")
    assert "build/run/two words (its machine runs)" in done.stdout
    kept = {name for name in left(used) if "run/" in name}
    assert kept == {"build/run/two words/file", "build/run/two words/machine.json"}
    told = "clean: kept .venv, since a machine runs in build/run/two words; stop it with `.venv/bin/vboot stop RUN`"
    assert told in done.stdout.splitlines()
    assert (used / ".venv/bin/python").exists()
    (used / "build/run/two words/machine.json").unlink()
    assert make(used, "clean").returncode == 0
    assert not (used / ".venv").exists()


def test_clean_keeps_vboot_for_a_machine_elsewhere(used: Path, tmp_path: Path) -> None:
    run, register = tmp_path / "run", tmp_path / "state/vector_boot/runs"
    for folder in (run, register):
        folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"], cwd=used) as machine:
        ticks = int(Path(f"/proc/{machine.pid}/stat").read_text().rpartition(") ")[2].split()[19])
        record = {"run": str(run), "pid": machine.pid, "start_ticks": ticks}
        (run / "machine.json").write_text(json.dumps(record, indent=2))
        (register / "1.json").write_text(json.dumps(record))
        environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": ""}
        done = make(used, "clean", **environment)
        machine.kill()
    assert f"clean: kept .venv, since a machine runs in {run}; stop it with" in done.stdout
    assert (done.returncode, (used / ".venv").exists()) == (0, True)
    assert make(used, "clean", **environment).returncode == 0
    assert not (used / ".venv").exists()


def test_clean_without_any_run_leaves_nothing_and_says_nothing(used: Path) -> None:
    shutil.rmtree(used / "build/evolve")
    done = make(used, "clean")
    assert (done.stdout, done.stderr) == ("", "")
    assert not (used / "build").exists()
    assert make(used, "clean").returncode == 0


def test_distclean_removes_everything_but_no_machine_that_runs(used: Path) -> None:
    runs(used, "build/run/1")
    before = left(used)
    done = make(used, "distclean")
    assert done.returncode != 0
    assert "a machine runs in build/run/1; stop it with `vboot stop RUN` first" in done.stderr
    assert left(used) == before
    (used / "build/run/1/machine.json").unlink()
    assert make(used, "distclean").returncode == 0
    assert left(used) == set()
