"""The size of the executable, against the smallest executable with Rust's standard library."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from builder.executable import CRATE, build_executable, find_toolchain
from tests.bench.report import quantity
from tests.bench.results import Case, Result, Setting, at_most
from tests.bench.rust import LOG, run_cargo

OURS, EMPTY = "vector_boot", "empty program"
LIMIT = 2_000_000
DISTANT_LIMIT = 500_000
_HOW = (
    "Bytes of the release executable, which is PID 1 and worker, and of a program with an empty `main`, built by the"
    " same compiler with the release profile of our crate and `-C target-feature=+crt-static`. Only the difference is"
    " our code and its dependencies; a smaller executable than the empty program is not possible with Rust's standard"
    " library."
)


def run(setting: Setting) -> Result:
    """Build both and compare their sizes. Raises ToolError."""
    setting.say("building both executables")
    ours = build_executable(log=LOG, progress=lambda _phase, _done, _total: None)
    sizes = {OURS: ours.stat().st_size, EMPTY: _build_empty(setting.folder).stat().st_size}
    case = Case("release executable", "bytes", {name: (float(size),) for name, size in sizes.items()})
    findings = (
        at_most("executable", sizes[OURS], LIMIT, shown=lambda size: quantity(size, "bytes")),
        at_most("executable, one day", sizes[OURS], DISTANT_LIMIT, shown=lambda size: quantity(size, "bytes")),
    )
    return Result("Executable size", _HOW, (case,), findings, {"rustc": find_toolchain().version.split()[1]})


def _build_empty(folder: Path) -> Path:
    """An executable that does nothing."""
    crate = folder / "empty"
    (crate / "src").mkdir(parents=True)
    (crate / "src" / "main.rs").write_text("fn main() {}\n")
    (crate / "Cargo.toml").write_text(_manifest())
    run_cargo(
        ["rustc", "--release", "--target-dir", "target", "--", "-C", "target-feature=+crt-static"],
        crate=crate,
    )
    return crate / "target" / "release" / "empty"


def _manifest() -> str:
    """A Cargo.toml with the release profile of our crate; of its strings, numbers and booleans TOML is JSON."""
    manifest = tomllib.loads((CRATE / "Cargo.toml").read_text(encoding="utf-8"))
    profile = {key: value for key, value in manifest["profile"]["release"].items() if not isinstance(value, dict)}
    lines = ["[package]", 'name = "empty"', f"edition = {json.dumps(manifest['package']['edition'])}", "[workspace]"]
    lines += ["[profile.release]", *(f"{key} = {json.dumps(value)}" for key, value in profile.items())]
    return "\n".join(lines) + "\n"
