"""Byte streams to a machine. Every call has a deadline: a time of the monotonic clock in seconds."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from typing import Protocol

from vboot.client.forks import close_when_forked, keep_when_forked
from vboot.errors import InputError
from vboot.protocol.errors import LinkLostError, MachineTimeoutError
from vboot.protocol.framing import Bytes
from vboot.text import path_text

_PIECE = 1 << 18
_RETRY_SECONDS = 0.05


_ADDRESS_BYTES = 107
"""The longest path that a Unix socket address holds: 108 bytes with the closing zero."""


def connect_unix(stream: socket.socket, path: Path) -> None:
    """Connect to the socket at a path of any length. Raises OSError."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        return stream.connect(str(path))
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        stream.connect(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


class Link(Protocol):
    """A transport of the protocol: a Unix socket (`SocketLink`) or the runtime of a bridge (`BridgeLink`)."""

    def send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        """Send whole messages (or the byte that asks for a greeting), the last one with its blob.

        Raises LinkLostError, MachineTimeoutError.
        """

    def receive(self, deadline: float) -> bytes:
        """The next bytes as soon as some arrive; b"" at the deadline.

        Raises LinkLostError if the connection has ended.
        """

    def close(self) -> None:
        """Disconnect. It may be called twice."""


class SocketLink:
    """The Unix stream socket of a machine: QEMU's end of the virtio-serial port, or `vector_boot --listen`."""

    def __init__(self, path: Path, deadline: float) -> None:
        """Connect.

        Raises LinkLostError if no machine listens, MachineTimeoutError if its queue of connections stays full,
        InputError for a path that is not a socket.
        """
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(deadline)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        close_when_forked(self)

    def send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        """Hand all of `data` and `blob` to the kernel. Raises LinkLostError, MachineTimeoutError."""
        left = [memoryview(piece) for piece in (data, blob) if piece]
        while left:
            try:
                taken = self._socket.sendmsg(left)
            except BlockingIOError:
                if not self._wait(select.POLLOUT, deadline):
                    size = len(data) + len(blob)
                    what = f"the machine accepted {size - sum(map(len, left))} of {size} bytes before the deadline"
                    raise MachineTimeoutError(what, remedy="try again") from None
                continue
            except OSError as error:
                raise self._lost() from error
            while left and taken >= len(left[0]):
                taken -= len(left.pop(0))
            if taken:
                left[0] = left[0][taken:]

    def receive(self, deadline: float) -> bytes:
        """Up to 256 KiB of received bytes; b"" at the deadline. Raises LinkLostError."""
        while self._wait(select.POLLIN, deadline):
            try:
                data = self._socket.recv(_PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost() from error
            if not data:
                raise self._lost()
            return data
        return b""

    def close(self) -> None:
        """Disconnect. It may be called twice."""
        keep_when_forked(self)
        self._socket.close()

    def close_inherited(self) -> None:
        """Close a forked process's copy of the socket; the connection stays."""
        self._socket.close()

    def _connect(self, deadline: float) -> None:
        # A listening socket whose queue is full answers EAGAIN, and poll cannot wait for a free place.
        self._socket.setblocking(False)
        while True:
            try:
                return connect_unix(self._socket, self.path)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    what = f"the machine at {path_text(self.path)} accepts no connection: other clients are waiting too"
                    raise MachineTimeoutError(what, remedy="end the other client") from error
                time.sleep(_RETRY_SECONDS)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise LinkLostError(
                    f"no machine listens at {path_text(self.path)}", remedy="start it, or name another"
                ) from error
            except OSError as error:
                what = f"cannot connect to {path_text(self.path)} ({error.strerror or error})"
                raise InputError(what, remedy="give the run folder or the evolution socket of a machine") from error

    def _wait(self, event: int, deadline: float) -> bool:
        poller = select.poll()
        try:
            poller.register(self._socket, event)
        except ValueError as error:  # closed on our side
            raise self._lost() from error
        # Poll at least once: a deadline of now asks for what has arrived already.
        return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _lost(self) -> LinkLostError:
        return LinkLostError(f"the machine at {path_text(self.path)} closed the connection")
