"""The crate on aarch64 Linux, under qemu-user: the library computes the same bits as on this host.

`--listen` is not run: its worker is the executable again, which the kernel of this host would have to run by itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.executable import CRATE, build_library
from image.compose import compose
from tests.support.aarch64 import Tools, ToolsMissingError

SMOKE = Path(__file__).parents[1] / "support" / "c_smoke.c"


@pytest.fixture(scope="module")
def tools() -> Tools:
    try:
        return Tools.find()
    except ToolsMissingError as error:
        pytest.skip(str(error))


def smoke_program(compiler: str, library: Path, folder: Path) -> Path:
    program = folder / f"smoke-{Path(compiler).name}"
    linked = [f"-L{library}", "-lvector_boot", f"-Wl,-rpath,{library}"]
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CRATE / 'include'}"]
    subprocess.run([compiler, *flags, "-o", str(program), str(SMOKE), *linked], check=True, timeout=300)
    return program


def test_embeddings_and_mutations_have_the_same_bits(tools: Tools, tmp_path: Path) -> None:
    native = build_library(log=tmp_path / "log", progress=lambda *_: None).parent
    program = smoke_program("gcc", native, tmp_path)
    here = subprocess.run([str(program)], check=False, timeout=600, capture_output=True, text=True)
    assert (here.returncode, here.stderr) == (0, "")
    assert here.stdout.count('"crc32c"') == 4  # the embeddings of four generations
    there = tools.run(str(smoke_program(str(tools.gcc), tools.build("build", "--lib"), tmp_path)))
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout == here.stdout


def test_the_executable_runs(tools: Tools, tmp_path: Path) -> None:
    static = ["--", "-C", "target-feature=+crt-static"]
    folder = tools.build("rustc", "--features", "standalone", "--bin", "vector_boot", *static)
    model = compose("tiny", tmp_path / "tiny.gguf").path
    checked = tools.run(str(folder / "vector_boot"), "check", str(model))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "GGUF 3" in checked.stdout
