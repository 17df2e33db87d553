"""The byte stream of an evolution port: lines and blobs in, bytes out, with a transcript and deadlines.

pexpect says when something has come; the bytes themselves are kept here, because its `before` is not whole after a
timeout.
"""

from __future__ import annotations

import re
import select
import socket
import time
from pathlib import Path
from typing import Protocol

import pexpect
from pexpect.fdpexpect import fdspawn

from qemu.console import BootPhase
from qemu.verdict import RunOutcome
from tests.support.evolution_port.frames import LINE_LIMIT
from tests.support.evolution_port.transcript import Direction, Transcript
from vboot.errors import BootError

_SLICE = 0.05
_LAST_WORDS = 0.25
_PIECE = 65_536
# Anchored, so that looking again with every new byte stays linear. The second half is a line that is too long.
_LINE = re.compile(rb"\A(?:[^\n]{0,%d}\n|[^\n]{%d})" % (LINE_LIMIT - 1, LINE_LIMIT))


class Watch(Protocol):
    """The process behind a port: `check` raises when it has ended, `failure` makes its error.

    A `VirtualMachine` is one.
    """

    def check(self, phase: BootPhase = "spawn") -> None: ...
    def failure(self, what: str, *, outcome: RunOutcome = "failed") -> BootError: ...


class Unwatched:
    """A port whose process is unknown."""

    def check(self, phase: BootPhase = "spawn") -> None:
        """Always succeeds."""

    def failure(self, what: str, *, outcome: RunOutcome = "failed") -> BootError:
        """The bare error."""
        return BootError(what, phase="command")


class _Tee:
    """A pexpect log file that keeps what was read and not yet taken."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def flush(self) -> None:
        """Nothing is buffered."""


class PortStream:
    """One connection, made within `seconds`, kept in the file `transcript`. Times named `until` are monotonic."""

    def __init__(self, path: Path, *, watch: Watch, transcript: Path | None, seconds: float) -> None:
        self._watch = watch
        self._received = _Tee()
        self._skipping = False
        self._socket = _connect(path, watch, seconds)
        self._transcript = Transcript(transcript) if transcript else None
        self._spawn = fdspawn(self._socket.fileno(), timeout=None, maxread=_PIECE, use_poll=True)
        self._spawn.delayafterread = None
        self._spawn.logfile_read = self._received

    def line(self, until: float, *, lenient: bool = False) -> bytes | None:
        """The next line with its newline; None at the deadline.

        A line over the protocol's limit raises BootError, or is skipped if `lenient`.
        """
        while (data := self._take(_LINE, until)) is not None:
            if not data.endswith(b"\n"):
                if not lenient:
                    raise self._watch.failure(f"the evolution port sent a line of more than {LINE_LIMIT} bytes")
                self._skipping = True
            elif self._skipping:
                self._skipping = False
            else:
                return data
        return None

    def exactly(self, size: int, until: float) -> bytes:
        """The next `size` bytes. Raises BootError at the deadline."""
        data = b""
        while len(data) < size:
            step = min(_PIECE, size - len(data))
            piece = self._take(re.compile(rb"(?s)\A.{%d}" % step), until, blob=True)
            if piece is None:
                raise self._watch.failure(f"only part of a blob of {size} bytes came in time", outcome="timeout")
            data += piece
        return data

    def write(self, data: bytes, until: float, *, blob: bool = False) -> None:
        """Send everything. Raises BootError at the deadline or when the port is closed."""
        sent = 0
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        try:
            while sent < len(data):
                if not poller.poll(_SLICE * 1000):
                    self._watch.check()
                    if time.monotonic() > until:
                        what = f"the guest took only {sent} of {len(data)} bytes from the evolution port in time"
                        raise self._watch.failure(what, outcome="timeout")
                    continue
                sent += self._socket.send(data[sent:])
        except OSError:
            raise self._closed() from None
        finally:
            self._keep("out", data[:sent], blob=blob)

    def close(self) -> None:
        """Disconnect; what had come of an unfinished line goes into the transcript. Closing twice is fine."""
        if self._socket.fileno() >= 0:
            self._keep("in", bytes(self._received.data))
            self._socket.close()
            if self._transcript is not None:
                self._transcript.close()

    def _take(self, pattern: re.Pattern[bytes], until: float, *, blob: bool = False) -> bytes | None:
        while (left := until - time.monotonic()) > 0:
            try:
                event = self._spawn.expect_list([pattern, pexpect.TIMEOUT, pexpect.EOF], timeout=min(_SLICE, left))
            except OSError:
                event = 2
            if event == 0:
                size = len(self._spawn.after)
                data = bytes(self._received.data[:size])
                del self._received.data[:size]
                self._keep("in", data, blob=blob)
                return data
            if event == 2:
                raise self._closed()
            self._watch.check()
        return None

    def _closed(self) -> BootError:
        # QEMU closes the port a moment before it ends; its exit status is the better error.
        patience = time.monotonic() + _LAST_WORDS
        while time.monotonic() < patience:
            self._watch.check()
            time.sleep(_SLICE / 2)
        return self._watch.failure("the evolution port was closed")

    def _keep(self, direction: Direction, data: bytes, *, blob: bool = False) -> None:
        if self._transcript is not None:
            self._transcript.record(direction, data, blob=blob)


def _connect(path: Path, watch: Watch, seconds: float) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A connect blocks while others queue for the same socket.
    stream.settimeout(seconds)
    try:
        stream.connect(str(path))
    except OSError as error:
        stream.close()
        watch.check()
        raise watch.failure(f"the evolution port {path} takes no connection ({error.strerror or error})") from error
    stream.setblocking(False)
    return stream
