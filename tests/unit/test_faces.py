"""The crate's two faces as they are built: the library's exports, and the executable."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder.elf_check import check_executable, check_library
from builder.executable import CRATE, find_toolchain

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


def test_the_library_exports_the_c_interface_and_nothing_else(library: Path) -> None:
    with library.open("rb") as file:
        assert check_library(file, functions=EXPORTED) == []


def test_the_executable_is_static_sealed_and_small(executable: Path) -> None:
    with executable.open("rb") as file:
        assert check_executable(file) == []
    assert executable.stat().st_size < 3_000_000


def test_the_executable_needs_the_feature_standalone() -> None:
    command = [str(find_toolchain().cargo), "check", "--locked", "--bin", "vector_boot"]
    done = subprocess.run(command, cwd=CRATE, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode != 0
    assert "requires the features: `standalone`" in done.stderr
