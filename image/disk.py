"""The disk that UEFI firmware boots (spec/disk.md): EFI system partition, two slots for images, state. Pure.

Everything on it is derived from its contents, so the same parts give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal
from uuid import UUID, uuid5

from image import fat32, gpt, verity
from image.fat32 import Fat32
from image.gpt import ALIGNMENT, Gpt, Partition
from image.rts import HEADER_SIZE, RtsHeader, parse_header
from image.streams import read_chunks
from vboot.errors import InputError

Slot = Literal["A", "B"]
SLOTS: tuple[Slot, Slot] = ("A", "B")
ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
RTS_TYPE = UUID("558e6d26-d192-4368-86ac-d256d94b165d")
STATE_TYPE = UUID("9a9111ff-79bf-4623-b5b4-50642c2b5280")
LOADER_PATH = "EFI/BOOT/BOOTX64.EFI"
"""Where firmware looks for a boot loader on a disk that it has not seen before."""
ENTRIES_FOLDER = "EFI/Linux"
LOADER_CONF = "loader/loader.conf"
TRIES = 3
"""How often a new image is started before the boot loader takes it for bad."""

_NAMESPACE = UUID("9a9111ff-79bf-4623-b5b4-50642c2b5280")
_LABEL = "VB-ESP"
_ENTRY = re.compile(r"vb-([ab])(?:\+([0-9]{1,4})(?:-([0-9]{1,4}))?)?\.efi", re.IGNORECASE)


class DiskError(InputError):
    """A disk is none of vector_boot's, or one cannot be made."""


@dataclass(frozen=True)
class BootEntry:
    """A unified kernel image in `EFI/Linux`: `tries_left` and `tries_done` are None once it is blessed."""

    name: str
    slot: Slot
    size: int
    tries_left: int | None
    tries_done: int | None

    @property
    def path(self) -> str:
        """Its path on the EFI system partition."""
        return f"{ENTRIES_FOLDER}/{self.name}"


@dataclass(frozen=True)
class Disk:
    """An open disk: its partitions, its file system, and in which order the boot loader takes the slots."""

    gpt: Gpt
    slots: Mapping[Slot, Partition]
    state: Partition
    esp_partition: Partition
    esp: Fat32

    def entries(self) -> tuple[BootEntry, ...]:
        """The boot entries, by slot. Raises FatError if the file system is damaged."""
        found = []
        for file in self.esp.list(ENTRIES_FOLDER):
            match = _ENTRY.fullmatch(file.name)
            if match and not file.is_folder:
                left, done = (None if text is None else int(text) for text in match.group(2, 3))
                slot: Slot = "A" if match[1].upper() == "A" else "B"
                found.append(BootEntry(file.name, slot, file.size, left, done if left is None else done or 0))
        return tuple(sorted(found, key=lambda entry: entry.slot))

    def header(self, disk: BinaryIO, slot: Slot) -> RtsHeader | None:
        """The header of the image in a slot; None if the slot is blank. Raises RtsError for anything else."""
        place = self.slots[slot]
        disk.seek(place.start)
        head = disk.read(HEADER_SIZE)
        return parse_header(head, file_size=place.size, block_device=True) if any(head) else None


def default_slot_bytes(rts_bytes: int) -> int:
    """The size of a slot for an image of `rts_bytes`: with its hash tree, and a quarter for a larger one later."""
    blocks = verity.data_blocks(rts_bytes)
    return _rounded((blocks * verity.BLOCK + verity.tree_bytes(blocks)) * 5 // 4)


def loader_conf(slot: Slot) -> bytes:
    """The boot loader's settings. Those of the two slots differ in one byte, so that a change is one sector.

    The pattern is that of an entry which is blessed or has tries left: `vb-a.efi`, `vb-a+3.efi`, not `vb-a+0-3.efi`.
    """
    return f"timeout 0\neditor no\ndefault vb-{slot.lower()}[.+][1-9e]*\n".encode()


def esp_files(*, loader: bytes, uki: bytes, slot: Slot) -> dict[str, bytes]:
    """The files of the EFI system partition of a new disk: the boot loader, its settings, one entry to be tried."""
    return {
        LOADER_PATH: loader,
        f"{ENTRIES_FOLDER}/vb-{slot.lower()}+{TRIES}.efi": uki,
        LOADER_CONF: loader_conf(slot),
    }


def write_disk(
    file: BinaryIO,
    *,
    esp: Mapping[str, bytes],
    esp_bytes: int,
    rts: BinaryIO,
    tree: bytes,
    slot_bytes: int,
    state_bytes: int,
    seed: bytes,
) -> Gpt:
    """Write a disk to the empty file: the image `rts` with its hash tree is in slot A, slot B and the state are blank.

    The GUIDs are derived from `seed`. The file is sparse: what is zero is not written. Raises DiskError if the image is
    larger than a slot, FatError if the files do not fit the EFI system partition.
    """
    rts_bytes = rts.seek(0, io.SEEK_END)
    data_bytes = verity.data_blocks(rts_bytes) * verity.BLOCK
    if data_bytes + len(tree) > slot_bytes:
        needed, there = data_bytes + len(tree), slot_bytes
        raise DiskError(
            f"the image is larger than a slot: it needs {needed} bytes, and a slot has {there}",
            remedy=f"give larger slots with --slot-size {_rounded(needed) >> 20}, or leave it out",
        )
    partitions, size = gpt.lay_out(
        [
            _partition("vb-esp", ESP_TYPE, esp_bytes, seed),
            _partition("vb-rts-a", RTS_TYPE, slot_bytes, seed),
            _partition("vb-rts-b", RTS_TYPE, slot_bytes, seed),
            _partition("vb-state", STATE_TYPE, state_bytes, seed),
        ]
    )
    made = Gpt(_guid("disk", seed), partitions, size)
    head, tail = gpt.render(made)
    esp_at, slot_at = partitions[0].start, partitions[1].start
    serial = int.from_bytes(seed[:4], "little")
    pieces = fat32.render(esp, size=partitions[0].size, label=_LABEL, serial=serial, start=esp_at)
    file.truncate(size)
    for at, data in [(0, head), (size - len(tail), tail), *((esp_at + at, data) for at, data in pieces)]:
        file.seek(at)
        file.write(data)
    file.seek(slot_at)
    for chunk in read_chunks(rts, offset=0, size=rts_bytes):
        file.write(chunk)
    file.seek(slot_at + data_bytes)
    file.write(tree)
    return made


def open_disk(file: BinaryIO, *, size: int) -> Disk:
    """Read the tables of a disk of `size` bytes. Raises DiskError, GptError or FatError, which say what it is not."""
    table = gpt.read(file, disk_size=size)
    slots, states, systems = (table.of_type(kind) for kind in (RTS_TYPE, STATE_TYPE, ESP_TYPE))
    if len(slots) != 2 or len(states) != 1 or len(systems) != 1:
        raise DiskError(
            f"it is no disk of vector_boot: expected one EFI system partition, two slots and one state partition,"
            f" got {len(systems)}, {len(slots)} and {len(states)}"
        )
    esp = Fat32(file, start=systems[0].start)
    return Disk(table, dict(zip(SLOTS, slots, strict=True)), states[0], systems[0], esp)


def _partition(name: str, kind: UUID, size: int, seed: bytes) -> Partition:
    return Partition(name, kind, _guid(name, seed), 0, size)


def _guid(name: str, seed: bytes) -> UUID:
    return uuid5(_NAMESPACE, f"{name} {seed.hex()}")


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
