"""What an update brings to a slot: the boot file, and the contents of the partition (image, zeros, hash tree). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from image import uki, verity
from image.disk import Disk, Slot
from image.rts import HEADER_SIZE
from image.streams import read_chunks, size_of
from vboot.errors import InputError

_WORD = "vector_boot.verity="
_DEFAULT = b"default vb-"
_PIECE = 1 << 20


@dataclass(frozen=True)
class SlotContents:
    """The contents of a slot's partition, by which the file of the image is to be read again.

    `size` bytes in all: `rts_bytes` of the image, zeros up to whole blocks, the hash tree. `sha256` is theirs.
    """

    rts_bytes: int
    tree: bytes
    verity: verity.Verity
    size: int
    sha256: str

    def pieces(self, rts: BinaryIO) -> Iterator[bytes]:
        """The contents, in pieces of at most 1 MiB."""
        buffer = bytearray()
        for part in self._parts(rts):
            buffer += part
            while len(buffer) >= _PIECE:
                yield bytes(buffer[:_PIECE])
                del buffer[:_PIECE]
        if buffer:
            yield bytes(buffer)

    def _parts(self, rts: BinaryIO) -> Iterator[bytes | memoryview]:
        yield from read_chunks(rts, offset=0, size=self.rts_bytes)
        yield bytes(self.verity.data_bytes - self.rts_bytes)
        yield self.tree


def slot_contents(rts: BinaryIO) -> SlotContents:
    """Reads the image once for its hash tree and digest. Raises InputError for an empty file."""
    size = size_of(rts)
    hasher, digest = verity.Hasher(), hashlib.sha256()
    for chunk in read_chunks(rts, offset=0, size=size):
        hasher.update(chunk)
        digest.update(chunk)
    found, tree = hasher.finish()
    digest.update(bytes(found.data_bytes - size))
    digest.update(tree)
    return SlotContents(size, tree, found, found.total_bytes, digest.hexdigest())


def bundle(rts: BinaryIO, boot_file: bytes, contents: SlotContents, *, what: str) -> bytes:
    """The header of the image and the boot file, as `update_begin` takes them; errors call the boot file `what`.

    Raises InputError for a boot file that was made with another image: that slot would not start.
    """
    words = uki.read(boot_file, what=what).command_line.split()
    stated = [word.removeprefix(_WORD) for word in words if word.startswith(_WORD)]
    if stated and stated != [str(contents.verity)]:
        raise InputError(
            f"{what} was made with another image: it expects the hash tree {stated[0]}, and that of the image is"
            f" {contents.verity}",
            remedy="build the disk again, and update from that folder",
        )
    rts.seek(0)
    return rts.read(HEADER_SIZE) + boot_file


def slot_to_keep(disk: Disk) -> Slot:
    """Of a disk that no machine uses, the slot that an update leaves alone: the one that was found good, else the one
    that the boot loader would start.
    """
    tries: Mapping[Slot, int | None] = {entry.slot: entry.tries_left for entry in disk.entries()}
    default = default_slot(disk)
    other: Slot = "B" if default == "A" else "A"
    blessed = [slot for slot, left in tries.items() if left is None]
    if len(blessed) == 1:
        return blessed[0]
    return default if tries.get(default, 0) != 0 or tries.get(other, 0) == 0 else other


def default_slot(disk: Disk) -> Slot:
    """The slot that the boot loader starts unless it is out of tries. Raises InputError, FatError."""
    text = disk.esp.read("loader/loader.conf")
    for line in text.splitlines():
        letter = line.removeprefix(_DEFAULT)[:1].upper()
        if line.startswith(_DEFAULT) and letter in (b"A", b"B"):
            return "A" if letter == b"A" else "B"
    raise InputError(
        "loader/loader.conf of the disk has no line `default vb-a...` or `default vb-b...`",
        remedy="make the disk with `vboot build --format disk`",
    )
