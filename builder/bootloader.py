"""systemd-boot and the stub of unified kernel images, from Debian's package: unpacked, never installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder import apt
from builder.apt import Package, Progress
from builder.unpacked import unpacked_package
from vboot.errors import InputError

PACKAGE = "systemd-boot-efi"
_FOLDER = "usr/lib/systemd/boot/efi"
_LOADER, _STUB = "systemd-bootx64.efi", "linuxx64.efi.stub"


@dataclass(frozen=True)
class Bootloader:
    """`loader` is the boot manager, `stub` the program that starts the kernel of an image, `package` their source."""

    loader: Path
    stub: Path
    package: Package


def paths_in(cache: Path) -> tuple[Path, Path]:
    """Where the boot manager and the stub are in `cache`, once they are there."""
    folder = cache / f"debian-{PACKAGE}" / "root" / _FOLDER
    return folder / _LOADER, folder / _STUB


def debian_bootloader(cache: Path, *, refresh: bool = False, progress: Progress) -> Bootloader:
    """The boot loader in `cache`, downloaded if it is not there. Raises ToolError, InputError."""
    folder = cache / f"debian-{PACKAGE}"
    package = unpacked_package(folder, lambda: apt.package(PACKAGE), refresh=refresh, progress=progress)
    found = Bootloader(*paths_in(cache), package)
    for path in (found.loader, found.stub):
        if not path.is_file():
            raise InputError(f"{package.name} {package.version} has no {path.name}", remedy=apt.NO_PACKAGE_REMEDY)
    return found
