"""Builds the Rust crate: the executable that is PID 1, and the shared library for Python and C."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.cache import Progress
from builder.elf_check import ElfDefect, check_executable
from vboot.errors import InputError, ToolError
from vboot.programs import capture, run_logged

CRATE = Path(__file__).resolve().parent.parent / "vector_boot"
BUILD_TIMEOUT_S = 3600.0
QUERY_TIMEOUT_S = 30.0

# crt-static is given on the command line because in the cargo configuration cargo would not build the cdylib.
# Packed relocations save 60 kB; the C library in a static executable unpacks them from glibc 2.36 (Debian 12) on.
EXECUTABLE_ARGUMENTS = (
    "rustc", "--release", "--features", "standalone", "--bin", "vector_boot", "--", "-C", "target-feature=+crt-static",
    "-C", "link-arg=-Wl,-z,pack-relative-relocs",
)  # fmt: skip
# With the features of the executable: then cargo has compiled the library already, and only puts it in its place.
LIBRARY_ARGUMENTS = ("build", "--release", "--features", "standalone", "--lib")
# In place of the compiler: it hides this host's paths.
COMPILER = Path(__file__).with_name("image_rustc.sh")
# No code asks for this name, but cargo does not mix what was compiled with it and without.
MARK = "--cfg=vector_boot_image"
MARK_ARGUMENTS = ("--config", f'build.rustflags=["{MARK}"]')
# The environment variables that change what is compiled.
ENVIRONMENT = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "VECTOR_BOOT_MODEL")


@dataclass(frozen=True)
class Toolchain:
    """A cargo and its compiler; `version` is the output of `rustc --version` ("rustc 1.88.0 (...)")."""

    cargo: Path
    rustc: Path
    version: str


def executable_path(crate: Path = CRATE) -> Path:
    """Where cargo writes the executable."""
    return crate / "target" / "release" / "vector_boot"


def library_path(crate: Path = CRATE) -> Path:
    """Where cargo writes the shared library."""
    return crate / "target" / "release" / "libvector_boot.so"


@functools.cache
def find_toolchain(crate: Path = CRATE) -> Toolchain:
    """The first cargo on PATH, else in ~/.cargo/bin, whose compiler is new enough for the crate.

    All of PATH is searched: an old cargo may come before Debian's newer cargo-web. Raises ToolError that lists those
    found, InputError without a crate.
    """
    minimum = minimum_rust(crate)
    folders = [*os.get_exec_path(), str(Path.home() / ".cargo" / "bin")]
    found = []
    for cargo in dict.fromkeys(Path(folder) / "cargo" for folder in folders if folder):
        rustc = cargo.with_name("rustc")
        if not os.access(rustc, os.X_OK):
            rustc = Path(shutil.which("rustc") or rustc)
        if not (os.access(cargo, os.X_OK) and os.access(rustc, os.X_OK)):
            continue
        answer = capture([str(rustc), "--version"], phase="asking rustc for its version", timeout_s=QUERY_TIMEOUT_S)
        version = parse_rust_version(answer.stdout)
        if version is not None and version >= minimum:
            return Toolchain(cargo, rustc, answer.stdout.strip())
        found.append(f"{rustc} is {answer.stdout.strip() or 'broken'}")
    what = f"no cargo with rustc {minimum[0]}.{minimum[1]} or newer ({'; '.join(found) or 'none is installed'})"
    raise ToolError(what, command=["cargo"], remedy="run `make deps` or install Rust from https://rustup.rs")


def minimum_rust(crate: Path = CRATE) -> tuple[int, int]:
    """The oldest compiler that the crate's Cargo.toml accepts, as (major, minor). Raises InputError without a crate."""
    try:
        document = tomllib.loads((crate / "Cargo.toml").read_text(encoding="utf-8"))
        major, minor, *_ = str(document["package"]["rust-version"]).split(".")
        return int(major), int(minor)
    except OSError as error:
        raise InputError(f"the Rust crate is not at {crate}", remedy="run vboot from a source checkout") from error
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{crate}/Cargo.toml names no rust-version", remedy="restore it from the repository"
        ) from error


def parse_rust_version(text: str) -> tuple[int, int] | None:
    """(1, 88) from "rustc 1.88.0 (6b00bc388 2025-06-23)"; None if the text is something else."""
    match = re.match(r"rustc (\d{1,6})\.(\d{1,6})\.", text)
    return (int(match[1]), int(match[2])) if match else None


def build_executable(*, log: Path, progress: Progress, crate: Path = CRATE) -> Path:
    """Build and check the static executable. Raises ToolError (with cargo's last errors), InputError without a crate.

    cargo's whole output is written to `log`.
    """
    _run_cargo(EXECUTABLE_ARGUMENTS, crate=crate, log=log, progress=progress)
    path = executable_path(crate)
    with path.open("rb") as file:
        defects = check_executable(file)
    if defects:
        raise _unfit(path, defects, log)
    return path


def build_library(*, log: Path, progress: Progress, crate: Path = CRATE) -> Path:
    """Build the shared library with the C interface. Raises ToolError, InputError without a crate."""
    _run_cargo(LIBRARY_ARGUMENTS, crate=crate, log=log, progress=progress)
    return library_path(crate)


def ready_library(*, progress: Progress, crate: Path = CRATE) -> Path:
    """The shared library, built first where it is missing or older than its sources.

    Without a usable cargo the library that is there is taken as it is. Raises ToolError if there is none, or if cargo
    fails; InputError without a crate.
    """
    log = crate / "target" / "vboot-cargo.log"
    try:
        find_toolchain(crate)
    except ToolError as error:
        if library_path(crate).is_file():
            return library_path(crate)
        what = f"the library of the runtime is not built, and {error.what}"
        raise ToolError(what, command=error.command, remedy=error.remedy) from error
    log.parent.mkdir(exist_ok=True)
    return build_library(log=log, progress=progress, crate=crate)


def crate_files(crate: Path = CRATE) -> tuple[Path, ...]:
    """The files that configure cargo and the compiler; `included_files` gives those that it compiled.

    Cargo merges the configuration files of the crate's folder, of all folders above it, and of its home.
    """
    names = ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml")
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    folders = [*(folder / ".cargo" for folder in (crate.absolute(), *crate.absolute().parents)), home]
    settings = [folder / name for folder in dict.fromkeys(folders) for name in ("config.toml", "config")]
    return tuple(path for path in (COMPILER, *(crate / name for name in names), *settings) if path.is_file())


def included_files(crate: Path = CRATE) -> tuple[Path, ...]:
    """Every source the executable was compiled from, as cargo's dependency file beside it lists them."""
    listing = executable_path(crate).with_suffix(".d")
    if not listing.is_file():
        return ()
    # Files under target/ are generated from the other files and the environment.
    paths = parse_dep_info(os.fsdecode(listing.read_bytes()))
    return tuple(path for path in paths if not path.is_relative_to(crate / "target"))


def parse_dep_info(text: str) -> tuple[Path, ...]:
    """The prerequisites in a dependency file of cargo: one rule, `TARGET: FILE FILE ...` and a newline.

    In a path cargo writes a space as backslash-space and every other character as it is, also backslashes and newlines.
    So ": " is never part of a path. A path that ends in a backslash cannot be told from one with a space.
    """
    _, _, prerequisites = text.removesuffix("\n").partition(": ")
    words = filter(None, re.split(r"(?<!\\) ", prerequisites))
    return tuple(dict.fromkeys(Path(word.replace("\\ ", " ")) for word in words))


def _run_cargo(arguments: Sequence[str], *, crate: Path, log: Path, progress: Progress) -> None:
    toolchain = find_toolchain(crate)
    environment = {**os.environ, **compiler_environment(toolchain)}
    verb, *rest = arguments
    run_logged(
        [str(toolchain.cargo), verb, *MARK_ARGUMENTS, "--locked", "--target-dir", str(crate / "target"), *rest],
        phase=f"cargo {verb}",
        timeout_s=BUILD_TIMEOUT_S,
        log=log,
        folder=crate,
        environment=environment,
        on_line=_phases(progress),
    )


@functools.cache
def _rust_library(rustc: Path) -> tuple[str, str]:
    """Where the compiler keeps the sources of the standard library, if it has them, and the commit it was made from."""
    phase = "asking rustc for its folder"
    sysroot = capture([str(rustc), "--print", "sysroot"], phase=phase, timeout_s=QUERY_TIMEOUT_S).stdout.strip()
    verbose = capture([str(rustc), "-vV"], phase="asking rustc for its commit", timeout_s=QUERY_TIMEOUT_S).stdout
    commit = re.search(r"^commit-hash: (\S+)$", verbose, re.MULTILINE)
    return f"{sysroot}/lib/rustlib/src/rust", commit[1] if commit else "unknown"


def compiler_environment(toolchain: Toolchain) -> dict[str, str]:
    """The variables with which cargo runs the toolchain's compiler, through the script that hides this host's paths."""
    sources, commit = _rust_library(toolchain.rustc)
    variables = {
        "RUSTC": str(COMPILER),
        "VBOOT_RUSTC": str(toolchain.rustc),
        "VBOOT_RUST_SOURCES": sources,
        "VBOOT_RUST_COMMIT": commit,
        "CARGO_TERM_COLOR": "never",
    }
    # These take precedence over the configuration, so the mark must be in them too.
    for name, separator in (("CARGO_ENCODED_RUSTFLAGS", "\x1f"), ("RUSTFLAGS", " ")):
        if os.environ.get(name):
            variables[name] = f"{os.environ[name]}{separator}{MARK}"
    return variables


def _phases(progress: Progress) -> Callable[[str], None]:
    """Turn cargo's "   Compiling sha2 v0.11.1" into the phase "compiling sha2"."""

    def on_line(line: str) -> None:
        match = re.match(r"\s+(Compiling|Downloading|Updating|Blocking) (\S+)", line)
        if match:
            progress(f"{match[1].lower()} {match[2]}", 0, 0)

    return on_line


def _unfit(path: Path, defects: Sequence[ElfDefect], log: Path) -> ToolError:
    reasons = " ".join(defect.text for defect in defects)
    return ToolError(
        f"the executable {path} is not fit to be PID 1: {reasons.removesuffix('.')}",
        command=["cargo", *EXECUTABLE_ARGUMENTS],
        returncode=0,
        remedy=f"cargo's output is in {log}",
    )
