"""Disks that firmware boots, made from the files of an image, with small programs as boot loader and stub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from image import disk, uki, verity
from image.disk import Slot
from image.gpt import Gpt
from image.streams import CHUNK
from tests.support import efi_programs

MIB = 1 << 20
STUB = efi_programs.program()
LOADER = efi_programs.program((efi_programs.STUB_SECTIONS[0],))


def hash_tree(rts: Path) -> tuple[verity.Verity, bytes]:
    """The hash tree of an image."""
    hasher = verity.Hasher()
    with rts.open("rb") as file:
        while piece := file.read(CHUNK):
            hasher.update(piece)
    return hasher.finish()


def boot_file(
    folder: Path,
    slot: Slot = "A",
    *,
    words: Mapping[str, str] | None = None,
    stub: bytes = STUB,
    initramfs: bytes | None = None,
) -> bytes:
    """The unified kernel image of a slot with the image in `folder`; `words` replace some of its command line."""
    tree, _ = hash_tree(folder / "vector_boot.rts")
    wanted = {"vector_boot.slot": slot, "vector_boot.verity": str(tree)} | dict(words or {})
    return uki.build(
        stub,
        kernel=(folder / "vmlinuz").read_bytes(),
        initramfs=(folder / "initramfs.cpio").read_bytes() if initramfs is None else initramfs,
        command_line=" ".join(["console=ttyS0 panic=-1 quiet", *(f"{name}={value}" for name, value in wanted.items())]),
        os_release=uki.os_release(version="0.1.0", slot=slot),
        release="6.1.0-test",
        version="0.1.0",
    )


def make_disk(folder: Path, output: Path, *, esp: Mapping[str, bytes | None] | None = None, slot_mib: int = 0) -> Gpt:
    """Write a disk with the image in `folder`; `esp` replaces files, or leaves them out (None)."""
    rts = folder / "vector_boot.rts"
    _, tree = hash_tree(rts)
    wanted = {**disk.esp_files(loader=LOADER, uki=boot_file(folder), slot="A"), **(esp or {})}
    files = {path: data for path, data in wanted.items() if data is not None}
    with output.open("w+b", buffering=0) as file, rts.open("rb") as image:
        return disk.write_disk(
            file,
            esp=files,
            esp_bytes=64 * MIB,
            rts=image,
            tree=tree,
            slot_bytes=slot_mib * MIB or disk.default_slot_bytes(rts.stat().st_size),
            state_bytes=16 * MIB,
            seed=hashlib.sha256(b"test").digest(),
        )
