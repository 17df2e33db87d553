"""Builds the appliance's own kernel from Debian's source package: small, without modules, the same bytes each time.

The configuration is `kernel_fragments/vectorland.config.j2` over one in which everything is off. A built kernel is
kept, and used as long as its configuration, its source and the compiler are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from builder import apt
from builder.apt import Package, Progress
from vboot.errors import InputError, ToolError
from vboot.programs import capture, run_logged
from vboot.text import path_text

SOURCE_PACKAGE = "linux-source-6.1"
PROFILES = ("vm", "metal")
NEEDED = ("gcc", "make", "flex", "bison", "bc", "lz4", "tar", "xz")
"""The programs that a build needs; make and the kernel's scripts find them on PATH."""
BUILD_TIMEOUT_S = 7200.0
_QUERY_TIMEOUT_S = 60.0
_EXTRACT_TIMEOUT_S = 600.0
_BYTES = 4 << 30
"""Sources and objects, for the time of the build."""
# Kbuild writes these into the kernel; a build elsewhere, later, by another user has the same.
_FIXED = {
    "ARCH": "x86_64",
    "KBUILD_BUILD_USER": "vboot",
    "KBUILD_BUILD_HOST": "vector_boot",
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
    "TZ": "UTC",
}


@dataclass(frozen=True)
class BuiltKernel:
    """A bzImage and its configuration in the cache, and where its source came from."""

    vmlinuz: Path
    config: Path
    package: Package


def fragment(profile: str) -> str:
    """The options of a profile ("vm" or "metal"), as lines of a `.config`."""
    environment = Environment(
        loader=PackageLoader("builder", "kernel_fragments"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("vectorland.config.j2").render(profile=profile).lstrip()


def lost_options(wanted: str, config: str) -> list[str]:
    """The lines of a fragment that `make` did not take over: unknown options, or those whose dependencies are off."""
    lines = set(config.splitlines())
    return [line for line in wanted.splitlines() if line.startswith("CONFIG_") and line not in lines]


def own_kernel(cache: Path, *, profile: str, refresh: bool = False, progress: Progress) -> BuiltKernel:
    """The kernel of a profile in `cache`, built if it is not there: minutes, and 4 GiB of disk for that time.

    `refresh` asks apt whether there is a newer source. Raises ToolError if a program is missing or fails (with the path
    of its output), InputError if there is no space, or the source has no option that the configuration names.
    """
    _require_tools()
    folder = cache / f"own-{profile}"
    known = None if refresh else _cached(folder, profile)
    return known or _build(folder, profile, apt.package(SOURCE_PACKAGE), progress)


def _cached(folder: Path, profile: str) -> BuiltKernel | None:
    try:
        record = json.loads((folder / "kernel.json").read_bytes())
        package = Package(**record["package"])
        built = BuiltKernel(folder / "vmlinuz", folder / "config", package)
        same = record["key"] == _key(profile, package)
        whole = record["sha256"] == hashlib.sha256(built.vmlinuz.read_bytes() + built.config.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return built if same and whole else None


def _key(profile: str, package: Package) -> str:
    """What a kernel is made from."""
    gcc = capture(["gcc", "--version"], phase="asking gcc for its version", timeout_s=_QUERY_TIMEOUT_S).stdout
    parts = [fragment(profile), package.name, package.version, gcc.partition("\n")[0], json.dumps(_FIXED)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _require_tools() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        what = f"building the kernel needs {', '.join(missing)}"
        raise ToolError(what, command=missing[:1], remedy="run `make deps`, or take Debian's with --kernel debian")


def _build(folder: Path, profile: str, package: Package, progress: Progress) -> BuiltKernel:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < _BYTES:
            place = path_text(folder.parent)
            what = f"building the kernel needs {_BYTES >> 30} GiB of disk in {place}, and {free >> 20} MiB are free"
            raise InputError(what, remedy="free some space, or set XDG_CACHE_HOME to another folder")
        with tempfile.TemporaryDirectory(prefix=".kernel-", dir=folder.parent) as scratch:
            made = _compile(Path(scratch), profile, package, progress, log=folder.with_suffix(".log"))
            if folder.exists():
                folder.rename(Path(scratch) / "replaced")
            made.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: the kernel cannot be stored there: {error.strerror}") from error
    return BuiltKernel(folder / "vmlinuz", folder / "config", package)


def _compile(scratch: Path, profile: str, package: Package, progress: Progress, *, log: Path) -> Path:
    """Build in `scratch`; returns the folder that is to be kept."""
    content = apt.unpack(apt.download(package, scratch, progress=progress), progress=progress)
    archive = content / "root" / "usr/src" / f"{package.name}.tar.xz"
    # Built inside the sources: then the kernel holds relative paths only.
    source = scratch / "source"
    source.mkdir()
    progress("unpacking the sources", 0, 0)
    extract = ["tar", "-xf", str(archive), "-C", str(source), "--strip-components=1"]
    done = capture(extract, phase="unpacking the kernel's sources", timeout_s=_EXTRACT_TIMEOUT_S)
    if done.returncode:
        what = f"the kernel's sources cannot be unpacked: {done.stderr.strip()}"
        raise ToolError(what, command=extract, returncode=done.returncode, stderr=done.stderr)
    wanted = fragment(profile)
    (scratch / "wanted").write_text(wanted)
    progress("configuring", 0, 0)
    _make(["allnoconfig"], source, log, progress, KCONFIG_ALLCONFIG=str(scratch / "wanted"))
    config = (source / ".config").read_text()
    lost = lost_options(wanted, config)
    if lost:
        what = f"{package.name} {package.version} does not take over {len(lost)} options, the first is {lost[0]}"
        raise InputError(what, remedy="report this bug, or take Debian's kernel with --kernel debian")
    _make([f"-j{len(os.sched_getaffinity(0))}", "bzImage"], source, log, progress)
    made = scratch / "made"
    made.mkdir()
    vmlinuz = (source / "arch/x86/boot/bzImage").read_bytes()
    (made / "vmlinuz").write_bytes(vmlinuz)
    (made / "config").write_text(config)
    record = {
        "package": {"name": package.name, "version": package.version},
        "key": _key(profile, package),
        "sha256": hashlib.sha256(vmlinuz + config.encode()).hexdigest(),
    }
    (made / "kernel.json").write_text(json.dumps(record, indent=1))
    return made


def _make(words: Sequence[str], source: Path, log: Path, progress: Progress, **variables: str) -> None:
    compiled = 0

    def on_line(line: str) -> None:
        nonlocal compiled
        if line.lstrip().startswith(("CC ", "AS ")):
            compiled += 1
            progress(f"compiling the kernel, file {compiled}", 0, 0)

    # What the user exports for other builds, such as CFLAGS or ARCH, must not change this one.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    run_logged(
        ["make", *words],
        phase=f"make {words[-1]}",
        timeout_s=BUILD_TIMEOUT_S,
        log=log,
        folder=source,
        environment={**environment, **_FIXED, **variables},
        on_line=on_line,
    )
