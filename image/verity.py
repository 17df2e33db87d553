"""The hash tree of dm-verity, by which the kernel checks every block that it reads from a device. Pure.

Version 1, SHA-256, blocks of 4096 bytes, no salt, no superblock (Documentation/admin-guide/device-mapper/verity.rst in
the Linux source). Each block of data has a hash; blocks full of hashes have hashes in turn, up to a single block, whose
hash is the root. The blocks of hashes lie in the order of the levels, that with the single block first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from vboot.errors import InputError

BLOCK = 4096
DIGEST_BYTES = 32
_HASHES = BLOCK // DIGEST_BYTES
_WORD = re.compile(r"([0-9a-f]{64}):([1-9][0-9]{0,15})")


class VerityError(InputError):
    """Data do not have the root hash that was stated."""


@dataclass(frozen=True)
class Verity:
    """What the kernel must know to check a device: the root hash and how many blocks of data there are."""

    root: bytes
    data_blocks: int

    def __str__(self) -> str:
        """As in the word `vector_boot.verity=ROOT:BLOCKS` of the kernel's command line."""
        return f"{self.root.hex()}:{self.data_blocks}"

    @property
    def data_bytes(self) -> int:
        """The bytes of data, behind which the tree begins."""
        return self.data_blocks * BLOCK

    @property
    def total_bytes(self) -> int:
        """The bytes of data and tree."""
        return self.data_bytes + tree_bytes(self.data_blocks)


def parse(word: str) -> Verity:
    """Read what `str` of a Verity gives. Raises VerityError."""
    match = _WORD.fullmatch(word)
    if match is None:
        raise VerityError(f"expected vector_boot.verity=64 hex digits:blocks, got {word!r}")
    return Verity(bytes.fromhex(match[1]), int(match[2]))


def data_blocks(size: int) -> int:
    """The blocks that `size` bytes take."""
    return -(-size // BLOCK)


def tree_bytes(blocks: int) -> int:
    """The size of the tree over so many blocks of data."""
    total = 0
    while blocks > 1:
        blocks = -(-blocks // _HASHES)
        total += blocks
    return total * BLOCK


class Hasher:
    """Makes the tree of data that come in pieces; the last block is filled with zeros."""

    def __init__(self) -> None:
        """Nothing is hashed yet."""
        self._rest = b""
        self._hashes = bytearray()

    def update(self, piece: bytes | memoryview) -> None:
        """Hash the next bytes."""
        view = memoryview(piece)
        if self._rest:
            missing = BLOCK - len(self._rest)
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) < BLOCK:
                return
            self._hashes += sha256(self._rest).digest()
        whole = len(view) // BLOCK * BLOCK
        self._hashes += _hash_blocks(view[:whole])
        self._rest = bytes(view[whole:])

    def finish(self) -> tuple[Verity, bytes]:
        """The root hash and the tree. Raises InputError if there were no data."""
        if self._rest:
            self.update(bytes(BLOCK - len(self._rest)))
        if not self._hashes:
            raise VerityError("there is no hash tree of no data")
        count = len(self._hashes) // DIGEST_BYTES
        level, levels = bytes(self._hashes), []
        while len(level) > DIGEST_BYTES:
            padded = level.ljust(-(-len(level) // BLOCK) * BLOCK, b"\0")
            levels.append(padded)
            level = _hash_blocks(memoryview(padded))
        return Verity(level, count), b"".join(reversed(levels))

    def require(self, wanted: Verity, tree: bytes, *, what: str) -> None:
        """Raises VerityError if the data, which it calls `what`, or their tree are not those of `wanted`."""
        found, made = self.finish()
        if found != wanted:
            raise VerityError(f"the data of {what} have the root hash {found}, expected {wanted}")
        if tree != made:
            blocks = range(0, len(made), BLOCK)
            at = next(at for at in blocks if tree[at : at + BLOCK] != made[at : at + BLOCK])
            raise VerityError(f"the hash tree of {what} is damaged in its block {at // BLOCK}")


def hash_tree(pieces: Iterable[bytes | memoryview]) -> tuple[Verity, bytes]:
    """The root hash and the tree of data given in pieces."""
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.finish()


def _hash_blocks(view: memoryview) -> bytes:
    return b"".join([sha256(view[at : at + BLOCK]).digest() for at in range(0, len(view), BLOCK)])
