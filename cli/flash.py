"""`vboot flash`: a disk image onto a disk of this host."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from builder.boot_disk import open_disk_image
from cli.answer import Answer, columns, human_bytes
from cli.option_types import path
from cli.progress import reported
from image.flash import flash
from vboot.block_devices import BlockDevice, find_disk, list_disks
from vboot.disk_target import open_target
from vboot.errors import InputError
from vboot.text import path_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("image", nargs="?", type=path, metavar="IMAGE", help="a disk image, build/vector_boot.img")
    parser.add_argument("device", nargs="?", type=path, metavar="DEVICE", help="a whole disk, such as /dev/sdb")
    parser.add_argument("--list", action="store_true", help="show the disks of this host, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="write to a fixed disk too; never to one that is in use")


def run(arguments: argparse.Namespace) -> Answer:
    """Check, ask, write, and read back."""
    if arguments.list:
        return _listed(list_disks())
    if arguments.image is None or arguments.device is None:
        raise InputError("give an image and a disk", remedy="`vboot flash --list` shows the disks of this host")
    open_disk_image(arguments.image)
    size = arguments.image.stat().st_size
    disk = find_disk(arguments.device)
    _refuse(disk, image_bytes=size, force=arguments.force)
    if not arguments.yes:
        _ask(disk, arguments.image)
    started = time.monotonic()
    with arguments.image.open("rb") as image, open_target(disk.path) as target, reported("flash") as progress:
        done = flash(image, target, progress=progress)
    seconds = time.monotonic() - started
    data = {
        "device": disk.path,
        "written": done.written,
        "cleared": done.cleared,
        "compared": done.compared,
        "seconds": round(seconds, 3),
    }
    rate = human_bytes(round((done.written + done.compared) / max(seconds, 1e-3)))
    text = (
        f"{path_text(disk.path)} holds the system: {human_bytes(done.written)} written, all of it read back and found"
        f" equal, in {seconds:.1f} s ({rate}/s)"
    )
    return Answer(data, text)


def _refuse(disk: BlockDevice, *, image_bytes: int, force: bool) -> None:
    """Raises InputError if the disk must not, or cannot, be written."""
    name = f"{path_text(disk.path)} ({disk.title}, {human_bytes(disk.bytes)})"
    if disk.system:
        raise InputError(f"{name} holds the system that runs", remedy="give another disk: this one is never written")
    if disk.used_by:
        raise InputError(f"{name} is in use: {disk.used_by[0]}", remedy="unmount it first")
    if disk.read_only:
        raise InputError(f"{name} is read-only", remedy="look for a switch on it, or use another disk")
    if disk.bytes < image_bytes:
        what = f"{name} is too small: the image has {human_bytes(image_bytes)}"
        raise InputError(what, remedy="use a larger disk, or build the image with smaller partitions")
    if not disk.removable and not force:
        raise InputError(f"{name} is a fixed disk", remedy="if it is the right one, add --force")


def _ask(disk: BlockDevice, image: Path) -> None:
    """Raises InputError unless the user types the name of the disk."""
    if not sys.stdin.isatty():
        raise InputError("nobody can be asked, since this is no terminal", remedy="add --yes if it is the right disk")
    name = disk.path.name
    sys.stderr.write(
        f"{path_text(image)} is written to {path_text(disk.path)}: {disk.title}, {human_bytes(disk.bytes)},"
        f" {disk.transport or 'unknown connection'}, serial {disk.serial or 'unknown'}.\n"
        f"Everything on that disk is lost. Type {name} to go on: "
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip() != name:
        raise InputError("another answer than the name of the disk was given", remedy="nothing was written")


def _listed(disks: list[BlockDevice]) -> Answer:
    rows = [("disk", "size", "model", "connection", "can be written")]
    rows += [(str(d.path), human_bytes(d.bytes), d.title, d.transport or "-", _verdict(d)) for d in disks]
    data = {
        "disks": [
            {
                "path": d.path,
                "bytes": d.bytes,
                "model": d.model,
                "serial": d.serial,
                "transport": d.transport,
                "removable": d.removable,
                "read_only": d.read_only,
                "used_by": list(d.used_by),
                "system": d.system,
            }
            for d in disks
        ]
    }
    return Answer(data, columns(rows) if disks else "this host has no disks", report_only=True)


def _verdict(disk: BlockDevice) -> str:
    if disk.system:
        return "no: the system that runs is on it"
    if disk.used_by:
        return f"no: {disk.used_by[0]}"
    if disk.read_only:
        return "no: it is read-only"
    return "yes" if disk.removable else "with --force: it is a fixed disk"
