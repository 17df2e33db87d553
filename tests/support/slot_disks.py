"""Disks with two slots for tests of updates, made from small parts, and what the boot loader would start of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image import uki, verity
from image.disk import Disk, Slot, loader_conf, open_disk, write_disk
from image.rts_file import write_rts
from image.slot_update import default_slot
from tests.support import efi_programs
from tests.support.local_machine import tiny_model

MIB = 1 << 20


@dataclass(frozen=True)
class Build:
    """A folder as `vboot build --format disk` leaves it, with boot files that hold no kernel."""

    folder: Path

    @property
    def rts(self) -> bytes:
        """The image."""
        return (self.folder / "vector_boot.rts").read_bytes()

    def boot_file(self, slot: Slot) -> bytes:
        """The boot file of a slot."""
        return (self.folder / f"vb-{slot.lower()}.efi").read_bytes()


def build(
    folder: Path, executable: bytes, *, text: bytes = b"kernel", key: Ed25519PrivateKey | None = None, version: int = 0
) -> Build:
    """Makes such a folder; `text` makes its boot files differ from those of others."""
    folder.mkdir()
    program = folder / "program"
    program.write_bytes(executable)
    write_rts(
        folder / "vector_boot.rts", binary=program, tensors=tiny_model(), signing_key=key, security_version=version
    )
    made = Build(folder)
    found, tree = verity.hash_tree([made.rts])
    (folder / "tree").write_bytes(tree)
    for slot in ("A", "B"):
        data = uki.build(
            efi_programs.program(),
            kernel=efi_programs.kernel(text=text),
            initramfs=b"070701" + text * 2000,
            command_line=f"panic=-1 vector_boot.slot={slot} vector_boot.verity={found}",
            os_release=uki.os_release(version="1", slot=slot),
            release="6.1.0-test",
            version="1",
        )
        (folder / f"vb-{slot.lower()}.efi").write_bytes(data)
    return made


def make_disk(
    path: Path, made: Build, *, entries: dict[str, Slot], default: Slot = "A", slot_mib: int = 8, esp_mib: int = 34
) -> Path:
    """A disk whose slot A has this image, with the boot files of `made` under the names of `entries`."""
    files = {f"EFI/Linux/{name}": made.boot_file(slot) for name, slot in entries.items()}
    files |= {"EFI/BOOT/BOOTX64.EFI": efi_programs.program(), "loader/loader.conf": loader_conf(default)}
    with path.open("wb") as file, (made.folder / "vector_boot.rts").open("rb") as rts:
        write_disk(
            file, esp=files, esp_bytes=esp_mib * MIB, rts=rts,
            tree=(made.folder / "tree").read_bytes(), slot_bytes=slot_mib * MIB, state_bytes=MIB, seed=b"test" * 8,
        )  # fmt: skip
    return path


@dataclass(frozen=True)
class Found:
    """What is on a disk: the boot files by name, the default slot, and the digest of each slot's first bytes."""

    files: dict[str, bytes]
    default: Slot
    slots: dict[Slot, bytes]

    def starts(self) -> Slot:
        """The slot that the boot loader starts (spec/update.md)."""
        usable = {name[3].upper() for name in self.files if "+0" not in name}
        assert usable, self.files.keys()
        return self.default if self.default in usable else "AB"["AB".index(self.default) - 1]  # type: ignore[return-value]


def found(path: Path, size: int) -> Found:
    """Reads a disk; of each slot the digest of its first `size` bytes."""
    with path.open("rb") as file:
        disk: Disk = open_disk(file, size=path.stat().st_size)
        files = {entry.name: disk.esp.read(entry.path) for entry in disk.entries()}
        slots: dict[Slot, bytes] = {}
        for slot, partition in disk.slots.items():
            file.seek(partition.start)
            slots[slot] = hashlib.sha256(file.read(size)).digest()
        return Found(files, default_slot(disk), slots)
