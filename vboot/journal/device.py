"""The bytes of a state device: a file, a disk, or a copy of one, open for reading only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from vboot.errors import InputError
from vboot.journal.tables import DEVICE_MOST
from vboot.text import path_text

_PIECE = 1 << 20


class Device:
    """Bytes by offset. What is behind the end of the file reads as zeros: a copy may have been cut short."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises InputError."""
        self.path = path
        try:
            # Opening a FIFO would block.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            what = f"{path_text(path)} cannot be read: {(error.strerror or str(error)).lower()}"
            raise InputError(what, remedy="name the file of a state device") from error
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(self._descriptor)
            what = f"{path_text(path)} is neither a file nor a disk"
            raise InputError(what, remedy="name the file of a state device")
        self.size = min(os.lseek(self._descriptor, 0, os.SEEK_END), DEVICE_MOST)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` on. Raises InputError if the system cannot read them."""
        found = bytearray()
        try:
            while len(found) < size:
                piece = os.pread(self._descriptor, min(size - len(found), _PIECE), offset + len(found))
                if not piece:
                    break
                found += piece
        except OSError as error:
            what = f"{path_text(self.path)} cannot be read at byte {offset + len(found)}: {error.strerror}"
            raise InputError(what, remedy="copy what can be read, and read the copy") from error
        return bytes(found).ljust(size, b"\0")

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The bytes from `start` to `end`, in pieces of whole blocks, each with its offset."""
        for offset in range(start, end, _PIECE):
            yield offset, self.read(offset, min(_PIECE, end - offset))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
