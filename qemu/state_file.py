"""The file of a state disk, on which the mutations of a machine survive: made, and judged before a machine starts."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import InputError
from vboot.files import named_errors
from vboot.text import path_text

MIB = 1 << 20
STATE_SERIAL = "vb-state"
"""The serial number by which the guest finds the disk."""
LEAST_MIB, MOST_MIB = 16, 65536
_BASE_MIB, _MODELS = 64, 4
# What `struct flock` looks like on 64-bit Linux: type, whence, start, length, process.
_FLOCK = "@hhqqi0q"
_QEMU_LOCKS = (100, 200)
"""The first byte, and how many: QEMU locks bytes from 100 and from 200 on, one for each permission."""


@dataclass(frozen=True)
class StateFile:
    """A regular file that a machine may have as its state disk. `bytes`: its size; None if it is not there yet."""

    path: Path
    bytes: int | None

    def created(self, *, size_mib: int | None, model_bytes: int) -> StateFile:
        """The file, made if it was not there: sparse and all zero, and on the disk before the machine starts.

        `size_mib` None stands for `default_mib(model_bytes)`. Raises InputError.
        """
        if self.bytes is not None:
            return self
        size = (default_mib(model_bytes) if size_mib is None else size_mib) * MIB
        try:
            _create(self.path, size)
        except FileExistsError as error:
            what = f"{path_text(self.path)} was made by another program just now"
            raise InputError(what, remedy="boot again") from error
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return StateFile(self.path, size)

    def missing_space(self) -> int:
        """How many bytes the file may still take that its file system does not have; 0 if it has them.

        A machine that gets no space for a write takes no more mutations until it boots again.
        """
        status = self.path.stat()
        free = os.statvfs(self.path)
        return max(0, status.st_size - 512 * status.st_blocks - free.f_bavail * free.f_frsize)


def default_mib(model_bytes: int) -> int:
    """The size of a new state disk: 64 MiB, and four times the model."""
    return min(_BASE_MIB + -(-_MODELS * model_bytes // MIB), MOST_MIB)


def loss(path: Path, pid: int) -> str | None:
    """Why the next machine would not find what the one in the process `pid` writes to its state file at `path`.

    It says what to do, too. None if the next machine would, or if that process cannot be looked into. The machine
    itself sees a disk, which has no name.
    """
    try:
        held = {(status.st_dev, status.st_ino) for status in map(_status, Path(f"/proc/{pid}/fd").iterdir()) if status}
        now = _status(path)
    except OSError:
        return None
    if not held or (now and (now.st_dev, now.st_ino) in held):
        return None
    if now:
        return "another file took its place while the machine ran: save the weights with `vboot save` before it ends"
    return "it was deleted or renamed while the machine ran: put it back, or save the weights with `vboot save`"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def examined(path: Path, *, size_mib: int | None) -> StateFile:
    """The file at `path`, which no machine uses and which can be written; or the place where it can be made.

    Raises InputError with the reason why it cannot be a state disk, or has another size than `size_mib`.
    """
    with named_errors(path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return _place(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a special file"
        raise InputError(f"{path_text(path)} is {what}, expected a file for the state", remedy="name a file")
    if size_mib is not None and status.st_size != size_mib * MIB:
        what = f"{path_text(path)} has {status.st_size} bytes, and a size of {size_mib} MiB was asked for"
        raise InputError(what, remedy="leave the size out, since a state file keeps it, or name a new file")
    if not status.st_mode & 0o222:  # also for root, whom the system lets write it
        raise _unwritable(path, PermissionError(errno.EACCES, "it is read-only"))
    _require_free(path)
    return StateFile(path, status.st_size)


def _place(path: Path) -> StateFile:
    folder = path.parent
    if path.is_symlink():
        raise InputError(f"{path_text(path)} is a link to a file that is not there", remedy="name a file")
    if not folder.is_dir():
        raise InputError(f"there is no folder {path_text(folder)} for the state file", remedy="make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return StateFile(path, None)


def _create(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        # The name too: what the machine acknowledges must be found after a power cut of the host.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _require_free(path: Path) -> None:
    """Raise InputError if the file cannot be opened for writing, or another program has locked it as a machine's."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_QEMU_LOCKS, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        answer = (fcntl.F_WRLCK,)
    finally:
        os.close(descriptor)
    if answer[0] != fcntl.F_UNLCK:
        what = f"{path_text(path)} is used by another machine that runs"
        raise InputError(what, remedy="stop that machine (`vboot ps` lists them), or name another file")


def _unwritable(path: Path, error: OSError) -> InputError:
    what = f"{path_text(path)} cannot be the state of a machine: {(error.strerror or str(error)).lower()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(what, remedy="free some space, or name a file on another disk")
    if error.errno == errno.EFBIG:
        return InputError(what, remedy="ask for a smaller size with --state-size, or name a file on another disk")
    return InputError(what, remedy="name a file that you may write")
