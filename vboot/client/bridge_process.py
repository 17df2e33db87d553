"""The child process of a bridge, as its parent sees it: start, shared memory, packets, and end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vboot.client.bridge_packets import LOADED, Kind, Packet, cut, encode
from vboot.client.bridge_slots import Slots
from vboot.client.forks import close_when_forked, keep_when_forked
from vboot.errors import InputError
from vboot.protocol.errors import BridgeCrashedError, LinkLostError, MachineTimeoutError

LIBRARY_VARIABLE = "VECTOR_BOOT_LIBRARY"
_ENERGY_VARIABLE = "VECTOR_BOOT_ENERGY"
_CHECKOUT = Path(__file__).resolve().parents[2]
_BUILD = f"`make image` in {_CHECKOUT}"
_PIECE = 1 << 18
_END_SECONDS = 2.0
_STDERR_SHOWN = 400


def find_library() -> Path:
    """Path of the C library: $VECTOR_BOOT_LIBRARY, else that of the checkout. Raises InputError if there is none."""
    named = os.environ.get(LIBRARY_VARIABLE)
    path = Path(named) if named else _CHECKOUT / "vector_boot" / "target" / "release" / "libvector_boot.so"
    if path.is_file():
        return path
    remedy = f"correct {LIBRARY_VARIABLE}" if named else f"run {_BUILD}"
    raise InputError(f"the library of the runtime does not exist: {path}", remedy=f"{remedy}, or pass `library`")


class SharedMemory:
    """Memory files of one runtime: the weights, the journal, and the tensors `hw.mmio` and `cortex_journal` (words).

    They are empty at first; the runtime sets their sizes. They exist while a process has them open or mapped.
    """

    def __init__(self) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.weights, self.journal, self.words = (os.memfd_create(f"bridge {name}", flags) for name in "wjh")
        close_when_forked(self)

    def close(self) -> None:
        """Close the descriptors; mappings stay valid."""
        keep_when_forked(self)
        self.close_inherited()

    def close_inherited(self) -> None:
        """Close a forked process's copies of the descriptors."""
        for descriptor in (self.weights, self.journal, self.words):
            os.close(descriptor)


class BridgeProcess:
    """A running child. Deadlines are times of the monotonic clock in seconds."""

    def __init__(
        self, library: Path, model: Path | None, memory: SharedMemory, *, faults: bool, energy: bool, deadline: float
    ) -> None:
        """Start it and wait until it has loaded the model.

        Raises InputError if the library or the model is refused, MachineTimeoutError, BridgeCrashedError.
        """
        self._stream, theirs = socket.socketpair()
        self._stderr = os.memfd_create("bridge stderr", os.MFD_CLOEXEC)
        self.slots = Slots()
        """Where messages with a blob go, if there is room."""
        descriptors = (theirs.fileno(), memory.weights, memory.journal, memory.words, self.slots.descriptor)
        command = [sys.executable, "-S", "-m", "vboot.client.bridge_child", str(library.absolute()), str(int(faults))]
        command += [*map(str, descriptors), *([str(model.absolute())] if model else [])]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env={**os.environ, "PYTHONPATH": str(_CHECKOUT), _ENERGY_VARIABLE: "on" if energy else "off"},
                start_new_session=True,  # Ctrl-C must not interrupt the child: the parent decides
            )
        self._stream.setblocking(False)
        self._buffer = bytearray()
        self._answers: dict[int, Packet] = {}
        close_when_forked(self)
        self._forgotten: set[int] = set()
        try:
            self._wait_until_loaded(deadline)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def send(self, packet: Packet, deadline: float) -> None:
        """Send a packet. Raises BridgeCrashedError, MachineTimeoutError."""
        left = memoryview(encode(packet))
        while left:
            if not self._wait(select.POLLOUT, deadline):
                raise MachineTimeoutError("the runtime accepted no call before the deadline", remedy="allow more time")
            try:
                left = left[self._stream.send(left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._crashed() from error

    def answer(self, number: int | None, deadline: float) -> Packet | None:
        """The answer to the call with this number (None: only watch the child); None at the deadline.

        Raises BridgeCrashedError.
        """
        while number not in self._answers:
            packet = self._receive(deadline)
            if packet is None:
                return None
            if packet.number in self._forgotten:
                self._forgotten.discard(packet.number)
            else:
                self._answers[packet.number] = packet
        return self._answers.pop(number) if number is not None else None

    def forget(self, numbers: Iterable[int]) -> None:
        """Discard the answers to these calls, also those still to come."""
        self._forgotten |= {number for number in numbers if self._answers.pop(number, None) is None}

    def _receive(self, deadline: float) -> Packet | None:
        """The next packet; None at the deadline. Raises BridgeCrashedError."""
        while (packet := self._cut()) is None:
            if not self._wait(select.POLLIN, deadline):
                return None
            try:
                data = self._stream.recv(_PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._crashed() from error
            if not data:
                raise self._crashed()
            self._buffer += data
        self.slots.release(packet.number)
        return packet

    def end(self) -> None:
        """End the child by closing its socket; kill it if it does not end in 2 s. It may be called twice."""
        if self._stream.fileno() < 0:
            return
        self._stream.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._end_now()

    def kill(self) -> None:
        """Kill the child."""
        if self._stream.fileno() >= 0:
            self._stream.close()
            self._end_now()

    def close_inherited(self) -> None:
        """Close a forked process's copies of the open files; the child is not affected."""
        self._stream.close()
        os.close(self._stderr)
        self.slots.close()

    def _cut(self) -> Packet | None:
        try:
            return cut(self._buffer)
        except ValueError as error:
            self.kill()
            what = f"the runtime's process sent {error} and was killed"
            raise BridgeCrashedError(what, remedy="try again: the next call starts another") from error

    def _end_now(self) -> None:
        self._process.kill()
        self._process.wait()
        keep_when_forked(self)
        os.close(self._stderr)
        self.slots.close()

    def _wait_until_loaded(self, deadline: float) -> None:
        packet = self.answer(LOADED, deadline)
        if packet is None:
            raise MachineTimeoutError(
                "the runtime did not load the model before the deadline", remedy="allow more time"
            )
        if packet.kind is Kind.NO_LIBRARY:
            remedy = f"run {_BUILD}, or name another with {LIBRARY_VARIABLE} or `library`"
            raise InputError(f"the library of the runtime does not load: {packet.data.decode()}", remedy=remedy)
        if packet.kind is not Kind.DONE:
            raise InputError(f"the runtime does not load: {packet.data.decode()}", remedy="name another model")

    def _wait(self, event: int, deadline: float) -> bool:
        poller = select.poll()
        try:
            poller.register(self._stream, event)
        except ValueError as error:  # closed on our side
            raise LinkLostError(
                "the connection to the runtime is closed", remedy="initialize the bridge again"
            ) from error
        return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _crashed(self) -> BridgeCrashedError:
        """The error for a child that closed its socket: how it ended, and the end of its stderr."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        status = self._process.poll()
        if status is None:
            how = "closed its connection"
        elif status < 0:
            how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        else:
            how = f"ended with status {status}"
        size = os.fstat(self._stderr).st_size
        output = os.pread(self._stderr, _STDERR_SHOWN, max(0, size - _STDERR_SHOWN)).decode(errors="replace").split()
        self.kill()
        shown = f" ({' '.join(output)})" if output else ""
        return BridgeCrashedError(
            f"the runtime's process {how}{shown}", remedy="try again: the next call starts another"
        )
