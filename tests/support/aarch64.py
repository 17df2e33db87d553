"""A cross compiler for aarch64 Linux, and the emulator that runs what it builds, if this host has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from builder.executable import CRATE, find_toolchain

TARGET = "aarch64-unknown-linux-gnu"
_REPOSITORY = CRATE.parent
_UNPACKED = _REPOSITORY / "build" / "tools" / "aarch64"
_TARGET_FOLDER = _REPOSITORY / "build" / "test" / "aarch64"
_LIBRARIES = Path("/usr/aarch64-linux-gnu")
_BUILD_SECONDS = 3600


class ToolsMissingError(Exception):
    """The host has no aarch64 tools; the text says which."""


@dataclass(frozen=True)
class Tools:
    """Paths of the programs, and the environment in which cargo builds for aarch64."""

    cargo: Path
    gcc: Path
    qemu: Path
    environment: dict[str, str]

    @staticmethod
    def find() -> Tools:
        """Find the tools. Raises ToolsMissingError."""
        programs = {name: shutil.which(name) for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64")}
        missing = [name for name, path in programs.items() if path is None]
        toolchain = find_toolchain()
        rustc, environment = toolchain.rustc, dict(os.environ)
        if (_UNPACKED / "usr" / "bin" / "rustc").exists():
            rustc = _UNPACKED / "usr" / "bin" / "rustc"
            environment["LD_LIBRARY_PATH"] = str(_UNPACKED / "usr" / "lib" / "x86_64-linux-gnu")
        command = [str(rustc), "--target", TARGET, "--print", "target-libdir"]
        printed = subprocess.run(command, env=environment, check=False, timeout=60, capture_output=True, text=True)
        if not Path(printed.stdout.strip() or "/nonexistent").is_dir():
            missing.append(
                f"Rust's standard library for {TARGET} (`make aarch64-tools`, or `rustup target add {TARGET}`)"
            )
        if missing:
            raise ToolsMissingError(f"not on this host: {', '.join(missing)}")
        gcc, qemu = (Path(path) for path in programs.values() if path is not None)
        environment |= {
            "RUSTC": str(rustc),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": str(gcc),
            # Optimised, but quicker to build than a release.
            "CARGO_PROFILE_RELEASE_LTO": "false",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
        }
        return Tools(toolchain.cargo, gcc, qemu, environment)

    def build(self, *arguments: str) -> Path:
        """Run cargo for the target; the folder of its results."""
        verb, *rest = arguments
        where = ["--locked", "--quiet", "--release", "--target", TARGET, "--target-dir", str(_TARGET_FOLDER)]
        command = [str(self.cargo), verb, *where, *rest]
        done = subprocess.run(
            command,
            cwd=CRATE,
            env=self.environment,
            check=False,
            timeout=_BUILD_SECONDS,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return _TARGET_FOLDER / TARGET / "release"

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run an aarch64 program under the emulator."""
        emulated = [str(self.qemu), "-L", str(_LIBRARIES), *command]
        return subprocess.run(emulated, check=False, timeout=timeout, capture_output=True, text=True)
