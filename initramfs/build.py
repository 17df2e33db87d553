"""The appliance's initramfs: `/init`, the device nodes it needs before devtmpfs, kernel modules, mount points.

The archive is not compressed: its contents hardly shrink, and the kernel needs no decompressor for it.
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

When memory runs out the kernel drops the rest of an archive and boots on; a missing or short sentinel shows that.
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
        InputError: `init` is no ELF file, or an entry that newc cannot hold.
    """
    if not init.startswith(b"\x7fELF"):
        raise InputError("/init of the initramfs is not an ELF executable", remedy="build the standalone vector_boot")
    tree = newc.with_parents(
        [
            newc.directory("dev"),
            # Before it mounts devtmpfs, PID 1 has only these: without a console and null, Rust's std dies before main.
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
