"""Take one of a virtual machine's ports, each of which serves one client at a time (see `vboot.port_files`).

A client holds the lock of its port with flock: the kernel frees it when the client ends, however it ends. A program
that knows nothing of locks, such as socat, is noticed because the port does not answer: a free one does so within a
beat. So each port is first given a moment only, and then, should none have answered, more and more time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from vboot.client.link import Link, SocketLink
from vboot.port_files import lock_file, port_socket, port_sockets
from vboot.protocol.errors import LinkLostError, MachineBusyError, MachineTimeoutError, some_of
from vboot.text import path_text, printable

_LOOKS = 3
_LOOK_AGAIN_SECONDS = 0.02
"""`clients` holds each lock for a moment: look again before saying that all ports are taken."""
_NAME_LIMIT = 4096
_MOMENT_SECONDS = 0.3
"""How long a port may be silent while others are untried: three beats."""
_PATIENT_SECONDS = 2.5
_MOST_PATIENT_SECONDS = 10.0
_GROWTH = 1.5
_AT_ONCE = 0.0
"""A deadline that has passed."""
_NO_LOCK = "programs that take no lock (such as socat)"


def order(present: Collection[int], silent: Sequence[int] = ()) -> tuple[int, ...]:
    """The ports to try, best first: port 0 last, since programs without locks know only that one.

    `silent`: those that did not answer, one after the other. An old guest serves only port 0, and none is served before
    the guest is up: so port 0 and the others take turns then.
    """
    others = sorted(set(present) - {0})
    reached = max((place for place, number in enumerate(others) if number in silent[-2:]), default=-1)
    others = others[reached + 1 :] + others[: reached + 1]
    zero = [0] if 0 in present else []
    return tuple(zero + others if silent and silent[-1] != 0 else others + zero)


class PortOpener:
    """Opens connections to the machine at a path: its evolution socket, or its run folder.

    A socket without siblings and without a lock file, such as that of `vector_boot --listen`, is connected to as it is.
    """

    def __init__(self, path: Path, command: str) -> None:
        """`command` is what the lock says who holds it."""
        self._path = _first_socket(path)
        self._command = command
        self._last: int | None = None
        self._silent: list[int] = []
        self._patience = 0.0

    def __call__(self, deadline: float) -> Link:
        """Connect to a free port, another one than the last time if there is one.

        Raises MachineBusyError at once if there is none, and what SocketLink raises.
        """
        if self._last is not None:
            self._silent.append(self._last)
        for look in range(_LOOKS):
            self._last = None
            present = [number for number, path in enumerate(port_sockets(self._path)) if path.exists()]
            if not present or (len(present) == 1 and not lock_file(self._path).exists()):
                return SocketLink(self._path, deadline)
            link, full = self._first_free(present, deadline)
            if link is not None:
                return link
            if look < _LOOKS - 1:
                time.sleep(_LOOK_AGAIN_SECONDS)
        raise MachineBusyError((*clients(self._path), *[_NO_LOCK] * full))

    def silence(self) -> float | None:
        """Seconds that the last connection may be silent until the next one is tried; None: there is no other."""
        if self._last is None:
            return None
        return self._patience or _MOMENT_SECONDS

    def explained(self, error: MachineTimeoutError) -> MachineTimeoutError:
        """The error of a machine that answered at no port, with who uses its ports."""
        silent = len({*self._silent, *([] if self._last is None else [self._last])})
        if not silent:
            return error
        locked = clients(self._path)
        held = f"{len(locked)} in use by {some_of(locked)}; " if locked else ""
        what = f"{error.what}; of its ports, {held}{silent} silent: in use by {_NO_LOCK}, or not served yet"
        return MachineTimeoutError(what, remedy=error.remedy)

    def _first_free(self, present: Sequence[int], deadline: float) -> tuple[Link | None, int]:
        """A connection to the first port that has no client, and how many had none but a full queue."""
        wanted = order(present, self._silent)
        untried = [number for number in wanted if number not in self._silent]
        full = 0
        for numbers, patient in ((untried, False), (wanted, True)):
            full = 0
            for number in numbers:
                try:
                    path = port_socket(self._path, number)
                    link = _PortLink.take(path, self._command, deadline if len(present) == 1 else _AT_ONCE)
                except MachineTimeoutError:
                    if len(present) == 1:
                        raise
                    full += 1
                    continue
                if link is not None:
                    self._last = number if len(present) > 1 else None
                    if patient:
                        self._patience = min(_MOST_PATIENT_SECONDS, self._patience * _GROWTH or _PATIENT_SECONDS)
                    return link, full
        return None, full


def clients(path: Path) -> tuple[str, ...]:
    """Who holds the ports of the machine at this path, each as "vboot shell, pid 4711". They hold locks, so not all."""
    first = _first_socket(path)
    found = []
    for lock in map(lock_file, port_sockets(first)):
        with suppress(OSError):
            handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(_holder(handle))
            finally:
                os.close(handle)
    return tuple(found)


class _PortLink(SocketLink):
    """A connection to a port, and the port's lock."""

    def __init__(self, path: Path, lock: int, deadline: float) -> None:
        self._lock: int | None = lock
        try:
            super().__init__(path, deadline)
        except BaseException:
            self._unlock()
            raise

    @classmethod
    def take(cls, path: Path, command: str, deadline: float) -> SocketLink | None:
        """Connect to this port; None if another client has it."""
        if not path.exists():  # a lock without a socket would be left behind
            raise LinkLostError(f"no machine listens at {path_text(path)}", remedy="start it, or name another")
        try:
            lock = os.open(lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a folder that is not writable: the socket may be used all the same
            return SocketLink(path, deadline)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps({"pid": os.getpid(), "command": command}).encode() + b"\n", 0)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a full disk, or a file system without locks
            os.close(lock)
            return SocketLink(path, deadline)
        return cls(path, lock, deadline)

    def close(self) -> None:
        super().close()
        self._unlock()

    def close_inherited(self) -> None:
        # The lock belongs to the open file, which the other process still has: closing a copy does not free it.
        super().close_inherited()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _first_socket(path: Path) -> Path:
    if not path.is_dir():
        return path
    elsewhere = path / "sockets"
    return (elsewhere if elsewhere.is_dir() else path) / "evolution.sock"


def _holder(handle: int) -> str:
    try:
        record = json.loads(os.pread(handle, _NAME_LIMIT, 0))
        return f"{printable(str(record['command']))}, pid {int(record['pid'])}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another program"
