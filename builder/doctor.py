"""Checks the host for what the build, the boot and the tests need."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from builder.executable import CRATE, find_toolchain, minimum_rust
from qemu.accel import probe
from vboot.errors import VbootError
from vboot.programs import capture

MINIMUM_PYTHON = (3, 11)
# Twice the size of model, image and cargo's target folder together.
MINIMUM_FREE_BYTES = 2 << 30
QUERY_TIMEOUT_S = 30.0
_NO_VERSION_OPTION = frozenset({"busybox"})
"""Programs that print their version when they are called without words."""


@dataclass(frozen=True)
class HostTool:
    """One line of host_tools.txt: a command, or patterns of a file, and the Debian package that contains it."""

    probe: str
    package: str
    needed_by: str
    purpose: str


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check. `found` is a version, path or amount; None if it is missing: `remedy` says what to do.

    `needed_by` is build, boot or tests.
    """

    name: str
    found: str | None
    needed_by: str
    purpose: str
    remedy: str


def examine_host(folder: Path) -> list[Diagnosis]:
    """Run all checks; `folder` is where the image will be written."""
    return [_python(), *_rust(), *map(_host_tool, host_tools()), *_debian(), _disk(folder), _accelerator()]


def can_build(diagnoses: list[Diagnosis]) -> bool:
    """Whether everything that the build needs was found."""
    return all(diagnosis.found is not None for diagnosis in diagnoses if diagnosis.needed_by == "build")


def host_tools() -> list[HostTool]:
    """The table that install_deps.sh reads too."""
    return parse_host_tools(files("builder").joinpath("host_tools.txt").read_text(encoding="utf-8"))


def parse_host_tools(text: str) -> list[HostTool]:
    """Rows of four fields separated by "|"; empty lines and lines that begin with "#" are skipped."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [HostTool(*line.split("|")) for line in lines]


def _python() -> Diagnosis:
    found = platform.python_version() if sys.version_info >= MINIMUM_PYTHON else None
    return Diagnosis("python", found, "build", "the builder", "install Python 3.11 or newer")


def _rust() -> list[Diagnosis]:
    remedy = "run `make deps`, or install Rust from https://rustup.rs"
    try:
        minimum = ".".join(map(str, minimum_rust()))
        toolchain = find_toolchain()
    except VbootError as error:
        return [Diagnosis(name, None, "build", "the Rust crate", str(error)) for name in ("cargo", "rustc")]
    cargo = _version_of(str(toolchain.cargo), "--version")
    return [
        Diagnosis("cargo", cargo, "build", f"the Rust crate in {CRATE.name}/", remedy),
        Diagnosis("rustc", toolchain.version, "build", f"{minimum} or newer", remedy),
    ]


def _host_tool(tool: HostTool) -> Diagnosis:
    remedy = f"run `make deps`, or install Debian's package {tool.package}"
    if tool.probe.startswith("/"):
        matches = (path for pattern in tool.probe.split() for path in Path("/").glob(pattern.removeprefix("/")))
        found = next(map(str, matches), None)
        return Diagnosis(tool.package, found, tool.needed_by, tool.purpose, remedy)
    path = shutil.which(tool.probe)
    words = () if tool.probe in _NO_VERSION_OPTION else ("--version",)
    return Diagnosis(tool.probe, _version_of(path, *words) if path else None, tool.needed_by, tool.purpose, remedy)


def _debian() -> list[Diagnosis]:
    remedy = "use Debian or a derivative, or name your own kernel with --kernel"
    return [
        Diagnosis(
            name, _version_of(path, "--version") if (path := shutil.which(name)) else None, "build", purpose, remedy
        )
        for name, purpose in (("dpkg-deb", "unpacking Debian's kernel"), ("apt-get", "fetching Debian's kernel"))
    ]


def _disk(folder: Path) -> Diagnosis:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    amount = f"{free / 2**30:.1f} GiB free"
    return Diagnosis(
        "disk space", amount if free >= MINIMUM_FREE_BYTES else None, "build", f"{MINIMUM_FREE_BYTES >> 30} GiB",
        f"{amount} at {existing}: make room, or write elsewhere with --output",
    )  # fmt: skip


def _accelerator() -> Diagnosis:
    try:
        accel = probe()
    except VbootError as error:
        return Diagnosis("accelerator", None, "boot", "running the machine", str(error))
    return Diagnosis("accelerator", f"{accel.name}: {accel.detail or accel.reason}", "boot", "running the machine", "")


def _version_of(path: str, *words: str) -> str | None:
    """The first line that the command prints; None if it fails."""
    try:
        answer = capture([path, *words], phase=f"asking {path} for its version", timeout_s=QUERY_TIMEOUT_S)
    except VbootError:
        return None
    lines = (answer.stdout or answer.stderr).splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else None
