"""Copies bytes between files, and hashes them meanwhile."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from vboot.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called as progress(phase, bytes done, bytes in total)."""

CHUNK = 1 << 20
# Larger than CHUNK, because the kernel copies; small enough to show progress and to be interrupted.
_KERNEL_CHUNK = 64 << 20

# Errors of copy_file_range where it is not supported: old kernels, some pairs of file systems.
_NO_COPY_FILE_RANGE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def read_chunks(file: BinaryIO, *, offset: int, size: int) -> Iterator[memoryview]:
    """Yield `size` bytes from `offset` in chunks of at most 1 MiB.

    Two buffers are used in turn, so a chunk stays valid until the second chunk after it is requested.
    Raises InputError when the file ends early.
    """
    buffers = (bytearray(min(CHUNK, size)), bytearray(min(CHUNK, size)))
    done = 0
    turn = 0
    while done < size:
        view = memoryview(buffers[turn])[: min(CHUNK, size - done)]
        count = os.preadv(file.fileno(), [view], offset + done)
        if count == 0:
            raise InputError(
                f"{file.name} ends at byte {offset + done}, {size - done} bytes too early",
                remedy="do not change files while they are read",
            )
        yield view[:count]
        done += count
        turn ^= 1


def split_chunks(data: memoryview) -> Iterator[memoryview]:
    """Yield views of at most 1 MiB over `data`, copying nothing."""
    for start in range(0, data.nbytes, CHUNK):
        yield data[start : start + CHUNK]


def consume(
    chunks: Iterable[bytes | memoryview],
    *,
    target: BinaryIO | None = None,
    progress: Callable[[int], None] | None = None,
) -> bytes:
    """Write all chunks to `target` (if given) and return their SHA-256, 32 bytes.

    A second thread hashes one chunk while this one writes it and reads the next, so the time is that of the slower
    of the two, and the digest is of exactly the bytes written. `progress` gets the number of bytes done after each
    chunk.
    """
    digest = hashlib.sha256()
    done = 0
    with ThreadPoolExecutor(max_workers=1) as hasher:
        pending: Future[None] | None = None
        for chunk in chunks:
            if pending is not None:
                pending.result()
            pending = hasher.submit(digest.update, chunk)
            if target is not None:
                target.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done)
        if pending is not None:
            pending.result()
    return digest.digest()


def copy_range(
    source: BinaryIO, target: BinaryIO, *, offset: int, size: int, progress: Callable[[int], None] | None = None
) -> None:
    """Append `size` bytes of `source` from `offset` to `target` inside the kernel, which shares extents where possible.

    Falls back to reading and writing. `progress` gets the number of bytes done from time to time. Raises InputError
    when the source ends early.
    """
    target.flush()
    done = 0
    while done < size:
        count = _kernel_copy(source, target, offset=offset + done, size=min(_KERNEL_CHUNK, size - done))
        if count == 0:
            break
        done += count
        if progress is not None:
            progress(done)
    # The kernel moved the descriptor's offset, which the buffered file does not know.
    target.seek(0, os.SEEK_END)
    for chunk in read_chunks(source, offset=offset + done, size=size - done):
        target.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done)


def _kernel_copy(source: BinaryIO, target: BinaryIO, *, offset: int, size: int) -> int:
    """Copy some bytes and return how many; 0 where the kernel cannot."""
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), size, offset_src=offset)
    except OSError as error:
        if error.errno not in _NO_COPY_FILE_RANGE:
            raise
        return 0


def open_input(path: Path, *, what: str) -> BinaryIO:
    """Open a regular file or a block device for reading, unbuffered.

    `what` names its role in the InputError raised when that fails. Never blocks on a FIFO.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"cannot read the {what} {path}: {os.strerror(error.errno or 0)}", remedy="check the path"
        ) from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise InputError(f"cannot read the {what} {path}: it is not a file", remedy="give the name of a regular file")
    return io.FileIO(path, "rb", opener=lambda _path, _flags: descriptor)


def is_block_device(file: BinaryIO) -> bool:
    """Whether the open file is a block device, which may be longer than its contents."""
    return stat.S_ISBLK(os.fstat(file.fileno()).st_mode)


def size_of(file: BinaryIO) -> int:
    """Size in bytes of an open regular file or block device (whose st_size is 0)."""
    return file.seek(0, os.SEEK_END)


def refuse_same_file(output: Path, source: Path) -> None:
    """Raise InputError when both names mean the same file, also through links."""
    try:
        same = output.samefile(source)
    except OSError:
        return
    if same:
        raise InputError(f"{output} is both input and output", remedy="choose another output name")
