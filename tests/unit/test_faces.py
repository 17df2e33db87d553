"""The crate's two faces as they are built: what the library exports, and what the program says without `standalone`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder.elf_check import check_executable, check_library
from builder.executable import CRATE, build_executable, build_library, find_toolchain

EXPORTED = frozenset(
    {
        "neural_cleanup",
        "neural_data_layout",
        "neural_execute_pixels",
        "neural_free",
        "neural_get_result",
        "neural_get_stats",
        "neural_init",
        "neural_interrupt",
        "neural_last_error",
        "neural_load",
        "neural_load_shared",
        "neural_request",
        "neural_tensor",
    }
)


def quiet(_phase: str, _done: int, _total: int) -> None:
    pass


def test_the_library_exports_the_c_interface_and_nothing_else(tmp_path: Path) -> None:
    library = build_library(log=tmp_path / "log", progress=quiet)
    with library.open("rb") as file:
        assert check_library(file, functions=EXPORTED) == []


def test_the_executable_is_static_sealed_and_small(tmp_path: Path) -> None:
    executable = build_executable(log=tmp_path / "log", progress=quiet)
    with executable.open("rb") as file:
        assert check_executable(file) == []
    assert executable.stat().st_size < 2_600_000


def test_without_standalone_the_program_says_how_to_build_it(tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    rustc = find_toolchain().rustc
    command = [str(rustc), "--edition", "2021", "-o", str(stub), str(CRATE / "src" / "main.rs")]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    said = subprocess.run([str(stub)], check=False, timeout=10, capture_output=True, text=True)
    assert said.returncode == 1
    assert "--features standalone --bin vector_boot -- -C target-feature=+crt-static" in said.stderr
