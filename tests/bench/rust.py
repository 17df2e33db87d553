"""Runs cargo for a benchmark, with the toolchain that builds the appliance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from builder.executable import BUILD_TIMEOUT_S, CRATE, find_toolchain
from vboot.programs import run_logged

LOG = CRATE / "target" / "bench-cargo.log"
"""Cargo's output, kept: errors point to it."""


def run_cargo(arguments: Sequence[str], *, crate: Path) -> None:
    """Run cargo in the folder `crate`, its output going into `LOG`. Raises ToolError."""
    LOG.parent.mkdir(exist_ok=True)
    toolchain = find_toolchain()
    run_logged(
        [str(toolchain.cargo), *arguments],
        phase=f"cargo {arguments[0]}",
        timeout_s=BUILD_TIMEOUT_S,
        log=LOG,
        folder=crate,
        environment={**os.environ, "RUSTC": str(toolchain.rustc), "CARGO_TERM_COLOR": "never"},
        on_line=lambda _line: None,
    )
