"""A disk as it is written and read past the cache of the kernel."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vboot.errors import InputError
from vboot.text import path_text

_BLKRRPART, _BLKFLSBUF, _BLKZEROOUT = 0x125F, 0x1261, 0x127F
_PAGE = 4096
_PIECE = 4 << 20


class DiskTarget:
    """An open disk. Offsets and lengths are multiples of 512 bytes; those of 4096 bypass the cache."""

    def __init__(self, direct: int | None, cached: int) -> None:
        """`direct` and `cached` are descriptors of the same disk; `direct` is None where it cannot be had."""
        self._direct = direct
        self._cached = cached
        self._buffer = mmap.mmap(-1, _PIECE)
        self.size = os.lseek(cached, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes as they are on the disk. Raises OSError."""
        parts = []
        for at in range(offset, offset + size, _PIECE):
            parts.append(self._read_piece(at, min(_PIECE, offset + size - at)))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of it. Raises OSError: ENOSPC where the disk ends."""
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._buffer[: len(piece)] = piece
            view = memoryview(self._buffer)[: len(piece)]
            done = 0
            while done < len(piece):
                # A part that is no whole page goes through the cache, and is written by flush.
                descriptor = self._descriptor(offset + at + done, len(piece) - done)
                count = os.pwritev(descriptor, [view[done:]], offset + at + done)
                if count == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += count
            view.release()

    def clear(self, offset: int, size: int) -> None:
        """Make the bytes zero, by the disk itself where it can. Raises OSError."""
        try:
            fcntl.ioctl(self._cached, _BLKZEROOUT, struct.pack("QQ", offset, size))
        except OSError as error:
            if error.errno not in {errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            for at in range(offset, offset + size, _PIECE):
                self.write(at, bytes(min(_PIECE, offset + size - at)))

    def flush(self) -> None:
        """Return when all is on the disk. Raises OSError."""
        os.fsync(self._cached)
        # What is read next must come from the disk.
        with suppress(OSError):
            fcntl.ioctl(self._cached, _BLKFLSBUF)

    def read_table_again(self) -> None:
        """Have the kernel make the devices of the new partitions; a disk without partitions cannot."""
        with suppress(OSError):
            fcntl.ioctl(self._cached, _BLKRRPART)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in filter(None, (self._direct, self._cached)):
            os.close(descriptor)
        self._buffer.close()

    def _read_piece(self, offset: int, size: int) -> bytes:
        view = memoryview(self._buffer)[:size]
        done = 0
        try:
            while done < size:
                count = os.preadv(self._descriptor(offset + done, size - done), [view[done:]], offset + done)
                if count == 0:
                    raise OSError(errno.ENOSPC, "the disk ends here")
                done += count
            return bytes(view)
        finally:
            view.release()

    def _descriptor(self, offset: int, size: int) -> int:
        whole = offset % _PAGE == 0 and size % _PAGE == 0
        return self._direct if whole and self._direct is not None else self._cached


@contextmanager
def open_target(path: Path) -> Iterator[DiskTarget]:
    """The disk at `path`, which nothing else may use meanwhile. Raises InputError if it cannot be had."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        cached = os.open(path, flags | os.O_EXCL)
    except OSError as error:
        raise _unusable(path, error) from error
    direct = None
    with suppress(OSError):
        direct = os.open(path, flags | os.O_DIRECT)
    target = DiskTarget(direct, cached)
    try:
        yield target
        target.read_table_again()
    finally:
        target.close()


def _unusable(path: Path, error: OSError) -> InputError:
    what = f"{path_text(path)} cannot be written: {(error.strerror or str(error)).lower()}"
    if error.errno == errno.EBUSY:
        return InputError(what, remedy="unmount what is on it, and end what uses it")
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError(what, remedy="run this as root")
    return InputError(what, remedy="`vboot flash --list` shows the disks")
