"""The built image for direct boot: its files, the memory it needs, its kernel command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder import bzimage
from builder.boot_steps import INITRAMFS_NAME, VMLINUZ_NAME
from builder.plan import RTS_NAME
from builder.settings import RuntimeSettings
from image.rts import HEADER_SIZE, RtsError, parse_header
from initramfs.memory import MemoryNeed
from vboot.errors import InputError

BASE_COMMAND_LINE = "console=ttyS0 panic=-1 quiet"
"""A panic ends the machine at once; without `panic=` it would hang forever."""


@dataclass(frozen=True)
class BootImage:
    """What direct boot needs: kernel, initramfs and RTS disk, and the memory for all of them."""

    vmlinuz: Path
    initramfs: Path
    rts: Path
    need: MemoryNeed


def open_image(folder: Path) -> BootImage:
    """The image in the output folder of a build. Raises InputError when there is none, or its kernel is not a bzImage.

    Model and executable are not checked here; the machine checks them at boot.
    """
    vmlinuz, archive, rts = (folder / name for name in (VMLINUZ_NAME, INITRAMFS_NAME, RTS_NAME))
    missing = [path.name for path in (vmlinuz, archive, rts) if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder} contains no image: {', '.join(missing)} missing", remedy="make one with `vboot build`"
        )
    try:
        kernel = bzimage.parse(vmlinuz.read_bytes())
    except InputError as error:
        raise InputError(f"{vmlinuz}: {error.what}", remedy=error.remedy) from error
    need = MemoryNeed(
        kernel_bytes=kernel.init_size, initramfs_bytes=archive.stat().st_size, weights_bytes=_weights_bytes(rts)
    )
    return BootImage(vmlinuz, archive, rts, need)


def command_line(runtime: RuntimeSettings, append: str) -> str:
    """The kernel command line: the base, the [runtime] settings, then `append`, which has precedence."""
    words = [
        BASE_COMMAND_LINE,
        f"vector_boot.heartbeat_ms={runtime.heartbeat_ms}",
        f"vector_boot.onfail={runtime.onfail}",
        f"vector_boot.energy={runtime.energy}",
        f"vector_boot.fault={runtime.fault}",
        append.strip(),
    ]
    return " ".join(filter(None, words))


def _weights_bytes(rts: Path) -> int:
    size = rts.stat().st_size
    with rts.open("rb") as file:
        try:
            return parse_header(file.read(HEADER_SIZE), file_size=size).tensor_size
        except RtsError:
            return size
