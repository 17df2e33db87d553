"""The initramfs of each contender of `tests.bench.boot`: ours, busybox's and Python's, under one kernel."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile

from initramfs import newc
from initramfs.build import MODULES_LOAD, MOUNT_POINTS, modules_load
from initramfs.modules import Module
from tests.bench.python_archive import python_records
from vboot.errors import InputError

BUSYBOX_LINE = "busybox: one line"

_NODES = (
    newc.directory("dev"),
    newc.char_device("dev/console", 5, 1),
    newc.char_device("dev/null", 1, 3, mode=0o666),
)


def busybox_archive() -> bytes:
    """busybox as /init prints one line and waits; nothing is mounted and no module loaded.

    Raises InputError when there is no busybox that is linked statically.
    """
    path = shutil.which("busybox")
    program = Path(path).read_bytes() if path else b""
    if not program or _needs_loader(program):
        raise InputError("there is no statically linked busybox", remedy="install it (Debian: busybox-static)")
    inittab = f"::sysinit:/bin/busybox echo {BUSYBOX_LINE}\n"
    return newc.archive(
        [
            *_NODES,
            newc.file("init", program, mode=0o755),
            newc.symlink("bin/busybox", "/init"),
            newc.file("etc/inittab", inittab.encode()),
        ]
    )


def python_archive(modules: Sequence[Module]) -> bytes:
    """Python as /init loads the same modules before its model as our executable, and none after."""
    early = [module for module in modules if module.part == "early"]
    return newc.archive(
        [
            *_NODES,
            *[newc.directory(name) for name in MOUNT_POINTS],
            *python_records(),
            newc.file(MODULES_LOAD, modules_load(early).encode()),
            *[newc.file(module.archive_path, module.data) for module in early],
        ]
    )


def _needs_loader(program: bytes) -> bool:
    return any(segment["p_type"] == "PT_INTERP" for segment in ELFFile(io.BytesIO(program)).iter_segments())
