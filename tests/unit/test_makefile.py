"""The Makefile passes on any name unchanged, runs no part of it, and ignores variables of other programs."""

from __future__ import annotations

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
