"""The appliance's initramfs: `/init`, the device nodes it needs before devtmpfs, kernel modules, mount points.

The archive is not compressed: compression would hardly reduce it, and the kernel needs no decompressor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from initramfs import newc
from initramfs.modules import Module
from vboot.errors import InputError

SENTINEL = "etc/vector_boot.complete"
"""The last entry: 64 hexadecimal digits, SHA-256 of the archive's bytes before it, and a newline.

When memory runs out, the kernel drops the rest of an archive and continues to boot; then this entry is missing or
short.
"""
MODULES_LOAD = "lib/modules/modules.load"
MOUNT_POINTS = ("proc", "sys", "run", "tmp")


def build_initramfs(
    *, init: bytes, modules: Sequence[Module], release: str = "", extra: Sequence[newc.Record] = ()
) -> bytes:
    """The newc archive, the same bytes for the same arguments.

    Args:
        init: the static ELF executable that becomes `/init`, PID 1.
        modules: in load order, as `module_files.load_modules` gives them.
        release: the kernel's release, for the comment in modules.load.
        extra: further entries, such as a tiny model.

    Raises:
        InputError: `init` is not an ELF file, or newc cannot represent an entry.
    """
    if not init.startswith(b"\x7fELF"):
        raise InputError("/init of the initramfs is not an ELF executable", remedy="build the standalone vector_boot")
    tree = newc.with_parents(
        [
            newc.directory("dev"),
            # PID 1 has only these until it mounts devtmpfs; without console and null, Rust's std aborts before main.
            newc.char_device("dev/console", 5, 1),
            newc.char_device("dev/null", 1, 3, mode=0o666),
            newc.char_device("dev/kmsg", 1, 11, mode=0o644),
            *[newc.directory(name) for name in MOUNT_POINTS],
            newc.directory("etc"),
            newc.file("init", init, mode=0o755),
            newc.file(MODULES_LOAD, modules_load(modules, release=release).encode()),
            *[newc.file(module.archive_path, module.data) for module in modules],
            *extra,
        ]
    )
    digest = hashlib.sha256()
    for piece in newc.pieces(tree):
        digest.update(piece)
    return newc.archive([*tree, newc.file(SENTINEL, f"{digest.hexdigest()}\n".encode())])


def modules_load(modules: Sequence[Module], *, release: str = "") -> str:
    """The text of modules.load: `#` comments, then one absolute path a line, in load order."""
    environment = Environment(
        loader=PackageLoader("initramfs"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("modules.load.j2").render(modules=modules, release=release)
