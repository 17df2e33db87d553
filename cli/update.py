"""`vboot update`: write the slot of a disk that does not run, on a running machine or in an image."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder.disk_steps import UKI_NAMES
from builder.plan import RTS_NAME
from cli.answer import Answer, human_bytes
from cli.machines import add_key, add_timeout, connected, machine_path
from cli.option_types import path
from cli.progress import reported
from cli.rust_reader import rust_reader
from image.disk import Disk, Slot, open_disk
from image.gpt import Partition
from image.slot_update import SlotContents, bundle, slot_contents, slot_to_keep
from image.streams import open_input, size_of
from vboot.errors import InputError, ToolError
from vboot.protocol.tables import UPDATE_REMEDIES
from vboot.text import path_text

_EPILOG = """examples:
  vboot build --format disk
  vboot update build/run/... --from build --reboot
  vboot update build/vector_boot.img --from build
  vboot update /dev/sdX --from build

The slot that runs is not touched. The other one is written, read back and compared; then the boot loader starts it, up
to three times, until it is found good after 600 heartbeats. A power cut or an error on the way leaves the slot that
runs to be started. `stats` tells the slot, its tries, and why the machine fell back if it did."""

_SECONDS = 24 * 3600
"""A large image on a slow stick; the process is ended with this one."""

_QCOW2 = b"QFI\xfb"

Progress = Callable[[str, int, int], None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "machine", nargs="?", type=machine_path, metavar="RUN|SOCKET|IMAGE|DEVICE",
        help="run folder or socket of a machine, or a disk that no machine uses (default: the newest machine)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", type=path, required=True, metavar="DIR",
        help="folder of a disk that was built: boot files of both slots, and the image",
    )  # fmt: skip
    parser.add_argument(
        "--code-key", metavar="PEM|HEX", help="public key that signed the image, for a machine with a signed image"
    )
    parser.add_argument("--reboot", action="store_true", help="start the new slot now (running machines)")
    add_key(parser)
    add_timeout(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Update, and say which slot the next boot starts."""
    target: Path | None = arguments.machine
    key = None if arguments.code_key is None else _key(arguments.code_key)
    is_disk = target is not None and (target.is_file() or target.is_block_device())
    if is_disk and arguments.reboot:
        raise InputError("--reboot is for a running machine", remedy="leave it out: the next boot starts the new slot")
    with reported("update") as progress, _source(arguments.source, progress) as source:
        if target is not None and is_disk:
            slot = _update_disk(target, source, key, progress)
        else:
            slot = _update_machine(arguments, source, key, progress)
    size = source.contents.size
    text = f"slot {slot} is written ({human_bytes(size)}) and is started at the next boot, on trial"
    return Answer({"slot": slot, "bytes": size, "sha256": source.contents.sha256}, text)


@dataclass(frozen=True)
class _Source:
    """A folder with what is to be written."""

    folder: Path
    rts: BinaryIO
    contents: SlotContents

    def bundle(self, slot: Slot) -> bytes:
        """The header of the image and the boot file of a slot."""
        file = self.folder / UKI_NAMES[slot]
        if not file.is_file():
            remedy = "make it with `vboot build --format disk`"
            raise InputError(f"{path_text(self.folder)} has no boot file {UKI_NAMES[slot]} of a disk", remedy=remedy)
        return bundle(self.rts, file.read_bytes(), self.contents, what=path_text(file))

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.rts.close()


def _source(folder: Path, progress: Progress) -> _Source:
    if not folder.is_dir():
        raise InputError(f"{path_text(folder)} is no folder", remedy="name the one that `vboot build` has written")
    rts = open_input(folder / RTS_NAME, what="image")
    progress("hashing the image", 0, 0)
    return _Source(folder, rts, slot_contents(rts))


def _key(text: str) -> str:
    from vboot.keys import load_public_key

    return load_public_key(text).public_bytes_raw().hex()


def _update_machine(arguments: argparse.Namespace, source: _Source, key: str | None, progress: Progress) -> str:
    with connected(arguments) as machine:
        runs = machine.stats().slot
        if runs is None:
            remedy = "boot one from a disk: `vboot build --format disk`, `vboot boot --image build/vector_boot.img`"
            raise InputError("this machine runs from no slot, so there is no other one to update", remedy=remedy)
        slot = machine.update(
            source.bundle("B" if runs == "A" else "A"),
            source.contents.pieces(source.rts),
            slot_bytes=source.contents.size,
            slot_sha256=source.contents.sha256,
            key=key,
            progress=lambda written, total: progress("writing", written, total),
        )
        if arguments.reboot:
            machine.shutdown(reboot=True)
    return slot


def _update_disk(target: Path, source: _Source, key: str | None, progress: Progress) -> str:
    with open_input(target, what="disk") as file:
        if file.read(len(_QCOW2)) == _QCOW2:
            raise InputError(f"{path_text(target)} is a qcow2 image", remedy="convert it to raw with qemu-img first")
        disk = open_disk(file, size=size_of(file))
        keep = slot_to_keep(disk)
    slot: Slot = "B" if keep == "A" else "A"
    with tempfile.NamedTemporaryFile(prefix="vboot-update-") as brought:
        brought.write(source.bundle(slot))
        brought.flush()
        command = _command(target, disk, keep=keep, slot=slot, bundle=Path(brought.name), contents=source.contents)
        _write(command + ([] if key is None else [key]), source, progress)
    return slot


def _command(target: Path, disk: Disk, *, keep: Slot, slot: Slot, bundle: Path, contents: SlotContents) -> list[str]:
    places = [_place(disk.esp_partition), _place(disk.slots[slot]), _place(disk.slots[keep])]
    order = [slot, str(contents.size), contents.sha256]
    return [str(rust_reader()), "--update-disk", str(target), *places, str(bundle), *order]


def _place(partition: Partition) -> str:
    return f"{partition.start}:{partition.size}"


def _write(command: list[str], source: _Source, progress: Progress) -> None:
    """Runs the program that writes, which takes the contents on its standard input."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:  # fmt: skip
        assert writer.stdin is not None
        try:
            written = 0
            for piece in source.contents.pieces(source.rts):
                writer.stdin.write(piece)
                written += len(piece)
                progress("writing", written, source.contents.size)
        except BrokenPipeError:
            pass  # it says why
        progress("reading back", 0, 0)
        try:
            _, errors = writer.communicate(timeout=_SECONDS)
        except BaseException:
            writer.kill()
            raise
    if writer.returncode != 0:
        said = errors.decode("utf-8", "replace").strip().removeprefix("vector_boot: ")
        reason, _, text = said.partition(": ")
        raise ToolError(
            text or said or "the program that writes the disk ended without a word",
            command=command, returncode=writer.returncode, remedy=UPDATE_REMEDIES.get(reason),
        )  # fmt: skip
