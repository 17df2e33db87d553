"""Finds the kernel of the image: Debian's package, unpacked but never installed, or any bzImage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import apt, bzimage, kernel_config
from builder.apt import Package, Progress
from builder.unpacked import unpacked_package
from vboot.errors import InputError, ToolError


@dataclass(frozen=True)
class Kernel:
    """A kernel that the appliance can run on: its configuration has been checked.

    Attributes:
        vmlinuz: the bzImage.
        sha256: of the bzImage, hexadecimal.
        release: as `uname -r` prints it.
        config: options that are set, by name without CONFIG_.
        modules: its lib/modules/RELEASE folder, if there is one.
        package: the Debian package and version it came from, else where it was found.
        init_size: bytes of memory that unpacking and starting it takes.
        efi_stub: UEFI firmware can start it.
    """

    vmlinuz: Path
    sha256: str
    release: str
    config: Mapping[str, str]
    modules: Path | None
    package: str
    init_size: int
    efi_stub: bool


def debian_kernel(
    cache: Path,
    *,
    flavour: str = "cloud-amd64",
    refresh: bool = False,
    installed: Path = Path("/"),
    progress: Progress,
) -> Kernel:
    """The kernel of Debian's linux-image-FLAVOUR, downloaded once into `cache` and unpacked there.

    A kernel in `cache` is used after its hashes are checked; `refresh` asks apt for a newer version. If the first
    download fails, a kernel of this flavour in `installed`/boot is used instead, which `progress` reports.

    Raises:
        ToolError: apt or dpkg-deb is missing or failed, and no such kernel is installed.
        InputError: the kernel's configuration lacks something required.
    """
    folder = cache / f"debian-{flavour}"

    def find() -> Package:
        return apt.kernel_package(f"linux-image-{flavour}")

    try:
        package = unpacked_package(folder, find, refresh=refresh, progress=progress)
    except ToolError as error:
        present = None if refresh else installed_kernel(installed, flavour=flavour)
        if present is None:
            raise
        progress(f"{error.what}; using {present.vmlinuz} instead", 0, 0)
        return present
    found = _newest_kernel(folder / "root", flavour)
    if found is None:
        raise InputError(f"{package.name}: no boot/vmlinuz-*-{flavour} in this package", remedy=apt.NO_PACKAGE_REMEDY)
    return _kernel(*found, package=f"{package.name} {package.version}")


def installed_kernel(root: Path, *, flavour: str) -> Kernel | None:
    """The newest kernel of this flavour under `root`/boot, if there is one.

    Raises:
        InputError: it exists, but cannot be read or lacks something required.
    """
    found = _newest_kernel(root, flavour)
    return None if found is None else _kernel(*found, package=f"installed: {found[0]}")


def kernel_from_path(path: Path, *, config: Path | None = None, modules: Path | None = None) -> Kernel:
    """Any x86-64 bzImage.

    Its configuration is the first of these: the file `config`, config-RELEASE in the same folder, the one packed into
    it (CONFIG_IKCONFIG=y).

    Raises:
        InputError: not a bzImage, no configuration found, or one that lacks something required.
    """
    return _kernel(path, config, modules, package=f"file: {path.name}")


def _kernel(path: Path, config: Path | None, modules: Path | None, *, package: str) -> Kernel:
    data = _read(path)
    try:
        header = bzimage.parse(data)
    except InputError as error:
        raise InputError(f"{path}: {error.what}", remedy=error.remedy) from error
    source, text = _configuration(path, data, header.release, given=config)
    try:
        options = kernel_config.parse(text)
        kernel_config.require(options)
    except InputError as error:
        raise InputError(f"{source}: {error.what}", remedy=error.remedy) from error
    return Kernel(
        vmlinuz=path,
        sha256=hashlib.sha256(data).hexdigest(),
        release=header.release,
        config=options,
        modules=modules,
        package=package,
        init_size=header.init_size,
        efi_stub=header.efi_stub,
    )


def _configuration(path: Path, data: bytes, release: str, *, given: Path | None) -> tuple[Path, str]:
    """The text of the kernel's configuration and the file it was found in."""
    beside = path.parent / f"config-{release}"
    source = given or (beside if beside.is_file() else None)
    if source is not None:
        return source, _read(source).decode("utf-8", "replace")
    remedy = "give the .config it was built with as --kernel-config"
    try:
        embedded = bzimage.embedded_config(data)
    except InputError as error:
        raise InputError(f"{path}: its configuration is unknown ({error.what})", remedy=remedy) from error
    if embedded is None:
        raise InputError(
            f"{path}: its configuration is unknown (no {beside.name} beside it, none inside)", remedy=remedy
        )
    return path, embedded


def _newest_kernel(root: Path, flavour: str) -> tuple[Path, Path, Path | None] | None:
    """The newest vmlinuz of this flavour below `root`, its configuration and its modules."""
    kernels = sorted((root / "boot").glob(f"vmlinuz-*-{flavour}"), key=lambda path: _natural(path.name))
    if not kernels:
        return None
    release = kernels[-1].name.removeprefix("vmlinuz-")
    modules = root / "lib/modules" / release
    return kernels[-1], root / "boot" / f"config-{release}", modules if modules.is_dir() else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 6.1.0-9 before 6.1.0-10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
