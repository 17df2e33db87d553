"""Checks a built image against its manifest: before QEMU reads it, and for `vboot verify`.

A manifest lists the digest of every file. Its seal is the SHA-256 of its own contents, which finds damage; in a signed
image also a signature, without which whoever can change a file could change its digest too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from builder.boot_steps import INITRAMFS_NAME, VMLINUZ_NAME
from builder.disk_steps import DISK_NAME
from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import Manifest, OutputFile, read_manifest
from builder.plan import RTS_NAME, TENSORS_NAME
from image.rts import HEADER_SIZE
from image.streams import Progress, consume, open_input, read_chunks, size_of
from vboot.errors import InputError
from vboot.text import path_text, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

REMEDY = "build the image again, or fetch it again from its source"


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is still the one that was checked, without reading it: times in ns."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Checked:
    """The files that were found as listed, and by which key they are signed (hex of its id, or None)."""

    stamps: Mapping[Path, Stamp] = field(default_factory=dict)
    signed_by: str | None = None


def check_image(
    folder: Path,
    *,
    key: Ed25519PublicKey | None = None,
    tensors: bool = False,
    composed: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Check manifest, kernel, initramfs, and header, signature and executable of the container, in this order.

    `tensors` also hashes the container's model, which takes as long as reading it; `composed` the files that no machine
    boots from: vectorland.gguf, and what a disk was made of, but not the disk, which a machine may have written to.
    `key` must have signed manifest and container; without it a signed one is compared with the public key that it
    states itself, and refused if it states none. Raises InputError for the first thing that is wrong.
    """
    path = folder / MANIFEST_NAME
    manifest = _read(path)
    key = key or _stated_key(manifest, path)
    if key is not None:
        _require_signature(manifest, key, path)
    elif manifest.key_id is not None:
        raise _unknown_key(path, manifest.key_id)
    stamps = {}
    for name in (VMLINUZ_NAME, INITRAMFS_NAME, *(_others(manifest) if composed else ())):
        stamps[folder / name] = _check_file(folder / name, _listed(manifest, name, path), progress)
    rts = folder / RTS_NAME
    stamps[rts], signed_by = _check_container(rts, manifest, path, key=key, tensors=tensors, progress=progress)
    return Checked(stamps, signed_by)


def require_unchanged(checked: Checked) -> None:
    """Raises InputError if a file is no longer the one that was checked."""
    for path, stamp in checked.stamps.items():
        try:
            now = Stamp.of(path.stat())
        except OSError:
            now = None
        if now != stamp:
            raise InputError(
                f"{path_text(path)} was changed while the machine started", remedy="do not write to an image in use"
            )


def _read(path: Path) -> Manifest:
    try:
        # Opening a FIFO would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path_text(path)} is not a regular file", remedy=REMEDY)
            return read_manifest(file.read(), origin=path_text(path))
    except OSError as error:
        raise InputError(f"{path_text(path)} cannot be read: {error.strerror}", remedy=REMEDY) from error


def _others(manifest: Manifest) -> list[str]:
    """The files from which the machine of this folder does not boot."""
    own = {VMLINUZ_NAME, INITRAMFS_NAME, RTS_NAME, DISK_NAME}
    return [TENSORS_NAME, *sorted(set(manifest.outputs) - own - {TENSORS_NAME})]


def _listed(manifest: Manifest, name: str, origin: Path) -> OutputFile:
    listed = manifest.outputs.get(name)
    if listed is None:
        raise InputError(f"{path_text(origin)} lists no {name}", remedy=REMEDY)
    return listed


def _check_file(path: Path, listed: OutputFile, progress: Progress | None) -> Stamp:
    with open_input(path, what="file of the image") as file:
        stamp = _stamp_of(file, path, listed)
        report = None if progress is None else lambda done: progress(f"checking {path.name}", done, listed.size)
        found = consume(read_chunks(file, offset=0, size=listed.size), progress=report).hex()
    if found != listed.sha256:
        raise _wrong(path, f"has SHA-256 {found}", f"{listed.sha256} ({MANIFEST_NAME})")
    return stamp


def _check_container(
    path: Path,
    manifest: Manifest,
    origin: Path,
    *,
    key: Ed25519PublicKey | None,
    tensors: bool,
    progress: Progress | None,
) -> tuple[Stamp, str | None]:
    from image.rts_file import verify_open

    facts = manifest.inputs.get("rts", {})
    with open_input(path, what="RTS file") as file:
        stamp = _stamp_of(file, path, _listed(manifest, RTS_NAME, origin))
        head = hashlib.sha256(os.pread(file.fileno(), HEADER_SIZE, 0)).hexdigest()
        header = verify_open(file, path=path, block_device=False, public_key=key, tensors=tensors, progress=progress)
    if header.signed and key is None:
        raise _unknown_key(path, header.key_id.hex())
    if head != facts.get("header_sha256"):
        raise _wrong(path, f"has a header of SHA-256 {head}", f"{facts.get('header_sha256')} ({MANIFEST_NAME})")
    return stamp, header.key_id.hex() if header.signed else None


def _unknown_key(path: Path, key_id: str) -> InputError:
    """The error for a signature that cannot be checked, so that who made it would only be believed."""
    what = f"{path_text(path)} says it is signed by the key {key_id}, but {MANIFEST_NAME} does not hold the public key"
    return InputError(what, remedy=REMEDY)


def _stated_key(manifest: Manifest, origin: Path) -> Ed25519PublicKey | None:
    """The key that the manifest says the image is signed with; it proves nothing, but finds damage.

    Only its digits: a path there would make whoever wrote the manifest choose what is read.
    """
    stated = manifest.inputs.get("rts", {}).get("public_key")
    if stated is None:
        return None
    if not (isinstance(stated, str) and re.fullmatch(r"[0-9a-f]{64}", stated)):
        shown = printable(str(stated))[:80]
        what = f"{path_text(origin)} states the public key {shown}, expected 64 hex digits"
        raise InputError(what, remedy=REMEDY)
    from vboot.keys import load_public_key

    return load_public_key(stated)


def _stamp_of(file: BinaryIO, path: Path, listed: OutputFile) -> Stamp:
    if size_of(file) != listed.size:
        raise _wrong(path, f"has {size_of(file)} bytes", f"{listed.size} ({MANIFEST_NAME})")
    return Stamp.of(os.fstat(file.fileno()))


def _require_signature(manifest: Manifest, key: Ed25519PublicKey, path: Path) -> None:
    wanted = hashlib.sha256(key.public_bytes_raw()).hexdigest()
    if manifest.key_id is None:
        remedy = "build it with --signing-key, or leave --key out"
        raise InputError(
            f"{path_text(path.parent)} is unsigned, expected a signature by the key {wanted}", remedy=remedy
        )
    if manifest.key_id != wanted:
        raise _wrong(path, f"is signed by the key {manifest.key_id}", wanted)
    manifest.require_signature(key, origin=path_text(path))


def _wrong(path: Path, found: str, expected: str) -> InputError:
    return InputError(f"{path_text(path)} {found}, expected {expected}", remedy=REMEDY)
