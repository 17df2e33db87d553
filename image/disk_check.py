"""Reads all of a disk that firmware boots (spec/disk.md), and finds the first thing wrong with it. Pure."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from image import disk, gpt, pe, uki, verity
from image.disk import BootEntry, Disk, DiskError, Slot
from image.gpt import Partition
from image.rts import RtsError, RtsHeader
from image.streams import Progress, read_chunks
from image.uki import Uki
from image.verity import Verity

_REMEDY = "write the disk again from a sound image"
_DEFAULT = re.compile(rb"^default vb-([ab])\[", re.MULTILINE)


@dataclass(frozen=True)
class Loader:
    """The boot loader, and which slot its settings take first."""

    size: int
    sha256: str
    signed: bool
    default: Slot


@dataclass(frozen=True)
class BootFile:
    """The unified kernel image of a slot; `verity` is what its command line demands of the slot."""

    entry: BootEntry
    sha256: str
    image: Uki
    verity: Verity


@dataclass(frozen=True)
class SlotContents:
    """A slot. Without `boot` it cannot be started, whatever is in it: `header` is None then."""

    slot: Slot
    partition: Partition
    boot: BootFile | None
    header: RtsHeader | None
    blank: bool


@dataclass(frozen=True)
class Contents:
    """What is on a disk. `backup_at_end`: the backup of the partition table is in its last sectors."""

    disk: Disk
    loader: Loader
    slots: Mapping[Slot, SlotContents]
    state_blank: bool
    backup_at_end: bool


def read_contents(file: BinaryIO, *, size: int) -> Contents:
    """Read a disk of `size` bytes. Raises DiskError, or the error of a part, for the first thing wrong.

    A slot that has no boot entry is not looked at: an update may have been cut off there. The data of the slots are
    checked by `verify_slot`.
    """
    table = gpt.read_both(file, disk_size=size)
    opened = disk.open_disk(file, size=size)
    for partition in table.partitions:
        if partition.end > size:
            raise _wrong(f"partition {partition.name!r} ends at byte {partition.end} of {size}")
    loader = _read_loader(opened)
    entries = opened.entries()
    if not entries:
        raise _wrong(f"there is no boot entry in {disk.ENTRIES_FOLDER}, expected vb-a.efi or vb-b.efi")
    slots = {slot: _read_slot(file, opened, slot, entries) for slot in disk.SLOTS}
    return Contents(opened, loader, slots, _is_blank(file, opened.state), table.disk_size == size)


def verify_slot(file: BinaryIO, contents: SlotContents, *, progress: Progress | None = None) -> None:
    """Compute the hash tree of a slot that can be started. Raises VerityError if data or tree are not as demanded."""
    if contents.boot is None:
        return
    wanted, start = contents.boot.verity, contents.partition.start
    hasher = verity.Hasher()
    done = 0
    for chunk in read_chunks(file, offset=start, size=wanted.data_bytes):
        hasher.update(chunk)
        done += len(chunk)
        if progress is not None:
            progress(f"verify slot {contents.slot}", done, wanted.data_bytes)
    file.seek(start + wanted.data_bytes)
    tree = file.read(verity.tree_bytes(wanted.data_blocks))
    hasher.require(wanted, tree, what=f"slot {contents.slot}")


def _read_loader(opened: Disk) -> Loader:
    data = opened.esp.read(disk.LOADER_PATH)
    program = pe.read(data, what=disk.LOADER_PATH)
    if program.machine != pe.X86_64 or not program.is_efi_application:
        raise _wrong(f"{disk.LOADER_PATH} is no EFI application for x86-64")
    settings = opened.esp.read(disk.LOADER_CONF)
    match = _DEFAULT.search(settings)
    if match is None:
        raise _wrong(f"{disk.LOADER_CONF} names no default slot, expected a line 'default vb-a[.+][1-9e]*'")
    default: Slot = "A" if match[1] == b"a" else "B"
    return Loader(len(data), hashlib.sha256(data).hexdigest(), program.signed, default)


def _read_slot(file: BinaryIO, opened: Disk, slot: Slot, entries: tuple[BootEntry, ...]) -> SlotContents:
    partition = opened.slots[slot]
    blank = _is_blank(file, partition)
    own = [entry for entry in entries if entry.slot == slot]
    if not own:
        return SlotContents(slot, partition, None, None, blank)
    if len(own) > 1:
        raise _wrong(f"slot {slot} has two boot entries, {own[0].name} and {own[1].name}")
    boot = _read_boot_file(opened, own[0])
    try:
        header = opened.header(file, slot)
    except RtsError as error:
        raise _wrong(f"slot {slot}: {error.what}") from error
    if header is None:
        raise _wrong(f"slot {slot} has the boot entry {own[0].name} and is blank")
    blocks = verity.data_blocks(header.total_size)
    if boot.verity.data_blocks != blocks or boot.verity.total_bytes > partition.size:
        raise _wrong(f"{own[0].name} demands {boot.verity.data_blocks} blocks of slot {slot}, whose image has {blocks}")
    return SlotContents(slot, partition, boot, header, blank)


def _read_boot_file(opened: Disk, entry: BootEntry) -> BootFile:
    data = opened.esp.read(entry.path)
    image = uki.read(data, what=entry.name)
    if image.word("vector_boot.slot") != entry.slot:
        raise _wrong(f"the command line of {entry.name} has vector_boot.slot={image.word('vector_boot.slot')}")
    word = image.word("vector_boot.verity")
    if word is None:
        raise _wrong(f"the command line of {entry.name} has no vector_boot.verity, so its slot cannot be checked")
    return BootFile(entry, hashlib.sha256(data).hexdigest(), image, verity.parse(word))


def _is_blank(file: BinaryIO, partition: Partition) -> bool:
    """Whether the first block is zero, where a slot has its header and the state its superblock."""
    return not any(os.pread(file.fileno(), verity.BLOCK, partition.start))


def _wrong(what: str) -> DiskError:
    return DiskError(what, remedy=_REMEDY)
