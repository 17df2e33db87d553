"""The types of `vboot`, as a program sees them that has the wheel installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vboot.client.machine import connect
from vboot.weights.edits import Seeded

with connect(Path("evolution.sock")) as machine:
    generation: int = machine.stats().generation
    vectors: NDArray[np.float32] = machine.embed(["a text"]).vectors
    noise = Seeded("blk.*", seed="00c0ffee00c0ffee", form="normal", density=0.5, scale=1e-3)
    changed: int = machine.mutate([noise], confidence=0.9).changed.bytes
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds our wheel, and sees the packages of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", symlinks=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    # Not a .pth file of the tests' environment: the one that points to this checkout would be followed too.
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "env" / "bin" / "python"


def judged(python: Path, program: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "--no-error-summary"]
    cache = python.parents[1] / "mypy"
    done = subprocess.run(
        [*command, "--cache-dir", str(cache), program.name],
        cwd=program.parent, text=True, capture_output=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_strict_program_finds_the_types_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert judged(installed, program) == ""
    program.write_text(PROGRAM.replace("generation: int", "generation: str"))
    assert 'expression has type "int", variable has type "str"' in judged(installed, program)
