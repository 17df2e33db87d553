"""Reads kernel modules from a lib/modules/RELEASE folder, also compressed ones."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from initramfs.modules import MACHINE, Module, Wanted, module_name, select
from vboot.errors import InputError, ToolError

ZSTD_TIMEOUT_S = 30


def module_files(folder: Path) -> dict[str, Path]:
    """Module name to file, for every module anywhere under `folder`.

    Raises:
        InputError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", remedy="give the lib/modules/RELEASE folder of the kernel")
    return {module_name(path.name): path for path in sorted(folder.rglob("*.ko*")) if path.is_file()}


def read_module(path: Path) -> bytes:
    """The uncompressed module: `.ko`, `.ko.gz`, `.ko.xz`, and `.ko.zst` through the program zstd.

    Raises:
        InputError: the file cannot be read, is damaged or has another extension.
        ToolError: zstd is needed and is missing or failed.
    """
    try:
        match path.suffix:
            case ".ko":
                return path.read_bytes()
            case ".gz":
                return gzip.decompress(path.read_bytes())
            case ".xz":
                return lzma.decompress(path.read_bytes())
            case ".zst":
                return _unzstd(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot read this kernel module: {error}") from error
    raise InputError(f"{path}: kernel modules end in .ko, .ko.gz, .ko.xz or .ko.zst, not {path.suffix}")


def load_modules(
    folder: Path | None, *, release: str, config: Mapping[str, str], wanted: Sequence[Wanted] = MACHINE
) -> list[Module]:
    """The modules of a kernel for the archive, in load order; `folder` None means that there are no files.

    Raises:
        InputError, ToolError: as `modules.select`, `module_files` and `read_module`.
    """
    files = module_files(folder) if folder is not None else {}
    return select(wanted, release=release, config=config, available=files, read=lambda name: read_module(files[name]))


def _unzstd(path: Path) -> bytes:
    command = ["zstd", "--decompress", "--stdout", "--quiet", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=ZSTD_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        remedy = "install zstd, or decompress the modules first"
        raise ToolError(f"{path}: zstd is needed to read this module", command=command, remedy=remedy) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{path}: zstd did not finish within {ZSTD_TIMEOUT_S} s", command=command) from error
    if done.returncode != 0:
        stderr = done.stderr.decode(errors="replace").strip()
        what = f"{path}: zstd cannot decompress this module: {stderr}"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=stderr)
    return done.stdout
