"""The built image for direct boot: its files, the memory it needs, its kernel command line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from builder import bzimage
from builder.boot_steps import INITRAMFS_NAME, VMLINUZ_NAME
from builder.integrity import Checked
from builder.manifest import NAME as MANIFEST_NAME
from builder.plan import RTS_NAME
from image.rts import HEADER_SIZE, RtsError, parse_header
from initramfs.memory import MemoryNeed
from vboot.errors import InputError
from vboot.text import printable


@dataclass(frozen=True)
class BootImage:
    """What direct boot needs: kernel, initramfs and RTS disk, and the memory for all of them.

    `model` is its name, as the manifest says; `checked` the files that were compared with the manifest, if any.
    """

    vmlinuz: Path
    initramfs: Path
    rts: Path
    need: MemoryNeed
    model: str = "of unknown name"
    checked: Checked = field(default_factory=Checked)


def open_image(folder: Path) -> BootImage:
    """The image in the output folder of a build. Raises InputError when there is none, or its kernel is not a bzImage.

    Its contents are not checked here: `builder.integrity` compares them with the manifest.
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
    return BootImage(vmlinuz, archive, rts, need, _model_name(folder / MANIFEST_NAME))


def _model_name(manifest: Path) -> str:
    """The model in words, such as "minilm (all-MiniLM-L6-v2)"; for a file that is damaged, that it is not known."""
    try:
        facts = json.loads(manifest.read_bytes())["inputs"]["compose"]
        source, name = str(facts["source"]), str(facts.get("name") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "of unknown name"
    return printable(f"{source} ({name})" if name and name != source else source)


def _weights_bytes(rts: Path) -> int:
    size = rts.stat().st_size
    with rts.open("rb") as file:
        try:
            return parse_header(file.read(HEADER_SIZE), file_size=size).tensor_size
        except RtsError:
            return size
