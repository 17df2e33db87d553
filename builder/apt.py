"""Debian packages through apt and dpkg-deb: finding, fetching and unpacking them, never installing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import InputError, ToolError
from vboot.files import is_full
from vboot.programs import capture, run_logged
from vboot.text import path_text

LISTS_TIMEOUT_S = 60
DOWNLOAD_TIMEOUT_S = 600
UNPACK_TIMEOUT_S = 120

NO_PACKAGE_REMEDY = "run `make deps` to refresh the package lists, or give a kernel of your own"
_NEEDS_DEBIAN = "on a system that is not Debian, give a kernel of your own"

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); total 0 means unknown."""


@dataclass(frozen=True)
class Package:
    """A Debian package as apt's lists describe it."""

    name: str
    version: str


def kernel_package(meta: str) -> Package:
    """Follow a meta package such as linux-image-cloud-amd64 to the package that contains the kernel.

    Raises:
        ToolError: apt or its package lists are missing, or the lists do not contain the package.
    """
    depends = _apt_show(meta).get("Depends", "")
    match = re.search(r"linux-image-[^ ,]+", depends)
    if match is None:
        raise ToolError(f"{meta} depends on no linux-image package: {depends!r}", command=["apt-cache"])
    return Package(name=match[0], version=_apt_show(match[0])["Version"])


def package(name: str) -> Package:
    """The candidate version of a package. Raises ToolError: apt or its lists are missing, or do not contain it."""
    return Package(name=name, version=_apt_show(name)["Version"])


def _apt_show(name: str) -> dict[str, str]:
    """The fields of a package's candidate version in apt's lists."""
    command = ["apt-cache", "show", "--no-all-versions", name]
    done = capture(command, phase="reading apt's lists", timeout_s=LISTS_TIMEOUT_S, remedy=_NEEDS_DEBIAN)
    if done.returncode != 0:
        raise ToolError(
            f"apt knows no package {name}", command=command, returncode=done.returncode, stderr=done.stderr,
            remedy=NO_PACKAGE_REMEDY,
        )  # fmt: skip
    fields = (line.split(": ", 1) for line in done.stdout.split("\n\n")[0].splitlines() if not line.startswith(" "))
    return {field[0]: field[1] for field in fields if len(field) == 2}


def download(package: Package, folder: Path, *, progress: Progress) -> Path:
    """Fetch the .deb into `folder`; apt checks it against its signed lists.

    Raises:
        ToolError: it cannot be downloaded; the text contains apt's reason.
    """
    phase = f"downloading {package.name} {package.version}"
    progress(phase, 0, 0)
    # Run by root, apt downloads as its user _apt where that user may write; otherwise it warns and downloads as root.
    command = ["apt-get", "download", f"{package.name}={package.version}"]
    try:
        run_logged(
            command, phase=phase, timeout_s=DOWNLOAD_TIMEOUT_S, log=folder / "apt.log", folder=folder,
            environment=os.environ, on_line=lambda _line: None, remedy=NO_PACKAGE_REMEDY,
        )  # fmt: skip
    except ToolError as error:
        if is_full(folder):
            what = f"{phase} failed: no space left on the disk of {path_text(folder.parent)}"
            raise InputError(what, remedy="free some space, or set XDG_CACHE_HOME to another folder") from error
        cause = error.stderr.strip().rpartition("\n")[2]
        raise ToolError(
            f"{error.what}: {cause}" if cause else error.what,
            command=command, returncode=error.returncode, stderr=error.stderr, remedy=error.remedy,
        ) from error  # fmt: skip
    (deb,) = folder.glob("*.deb")
    return deb


def unpack(deb: Path, *, progress: Progress) -> Path:
    """Unpack a .deb file beside itself; its files are below `root` in the folder returned.

    Raises:
        ToolError: dpkg-deb is missing or failed.
    """
    content = deb.parent / "content"
    content.mkdir()
    command = ["dpkg-deb", "--extract", str(deb), str(content / "root")]
    phase = f"unpacking {deb.name}"
    progress(phase, 0, 0)
    done = capture(command, phase=phase, timeout_s=UNPACK_TIMEOUT_S, remedy=_NEEDS_DEBIAN)
    if done.returncode != 0:
        what = f"{phase} failed: {done.stderr.strip()}"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=done.stderr)
    return content
