"""Writes files so that they appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vboot.errors import InputError

# EFBIG: a limit of the file size (ulimit -f, or 4 GiB on FAT); the remedy is the same as for a full disk.
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEAST_FREE_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a seekable binary file that becomes `path` when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed over `path`, then the
    folder is flushed too. On any exception, KeyboardInterrupt included, the temporary file is removed and `path` stays
    as it was. A symbolic link at `path` is followed, so the link survives. The mode is 0666 less the umask.

    Raises InputError if `path` is a folder or a special file, its folder is missing or not writable, or the disk is
    full. Other exceptions of the block are not changed.
    """
    target = Path(os.path.realpath(path))
    _refuse_special(target, shown=path)
    temporary = target.parent / f".vboot-{secrets.token_hex(8)}.tmp"
    try:
        file: BinaryIO = open(temporary, "x+b")  # noqa: SIM115, PTH123 -- closed before the rename, below
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, target, shown=path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
            raise _unwritable(path, error) from error
        raise


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name `path` in every OSError of the block that names no file: the system's "no space left on device" does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.strerror:
            error.filename = os.fspath(path)
        raise


def is_full(folder: Path) -> bool:
    """Whether the disk of an existing folder has no space left for a file."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < _LEAST_FREE_BYTES


def _refuse_special(target: Path, *, shown: Path) -> None:
    """Refuse to replace anything but a regular file: a rename over a device node would remove the node."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(shown, error) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"cannot write {shown}: it is {what}", remedy="give the name of a file to create")


def _publish(temporary: Path, target: Path, *, shown: Path) -> None:
    """Rename, then flush the folder: otherwise a power cut may undo the rename."""
    try:
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(shown, error) from error
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unwritable(path: Path, error: OSError) -> InputError:
    remedy = "choose a folder that exists and is writable"
    if error.errno in _OUT_OF_SPACE:
        remedy = "free some space or choose another folder"
    return InputError(f"cannot write {path}: {os.strerror(error.errno or 0)}", remedy=remedy)
