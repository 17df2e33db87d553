"""Forked processes and the client: a connection and a runtime's process belong to the process that made them.

A process forked from it (`os.fork`, or `multiprocessing` with the start method "fork") holds copies of its objects and
of its open files. If both processes used one connection, each might read the replies to the other. So the objects
refuse to work in a forked process, and their sockets are closed there: otherwise the machine would not notice when the
first process closes its end.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from vboot.protocol.errors import ForkedProcessError


class Inherited(Protocol):
    """Something with open files, of which a forked process gets copies."""

    def close_inherited(self) -> None:
        """Close the copies in a forked process. The original files stay open in the process that opened them."""


_OPEN: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_when_forked(inherited: Inherited) -> None:
    """Have `close_inherited` called in every process that is forked from this one."""
    _OPEN.add(inherited)


def keep_when_forked(inherited: Inherited) -> None:
    """Undo `close_when_forked`: its files are closed, and their numbers may be used for other files."""
    _OPEN.discard(inherited)


class Owner:
    """Remembers the process that made an object."""

    def __init__(self, name: str) -> None:
        """`name` is what the object is called in errors, such as "the bridge"."""
        self._name = name
        self._pid = os.getpid()

    def is_current(self) -> bool:
        """Whether this process made the object."""
        return os.getpid() == self._pid

    def require(self) -> None:
        """Raise ForkedProcessError in a process that was forked from the one that made the object."""
        if not self.is_current():
            what = f"{self._name} belongs to process {self._pid}, and this is process {os.getpid()}, forked from it"
            raise ForkedProcessError(what, remedy="make a new one in the forked process")


class OwnerLock(Owner):
    """A reentrant lock for the threads of the process that made it.

    A forked process may have inherited it while a thread held it, and would wait for ever. So entering it there raises
    ForkedProcessError.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self.require()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _close_all() -> None:
    for inherited in list(_OPEN):
        inherited.close_inherited()
    _OPEN.clear()


os.register_at_fork(after_in_child=_close_all)
