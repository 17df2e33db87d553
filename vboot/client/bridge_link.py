"""A link to the child process of a bridge, in place of the socket of a booted machine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from vboot.client.bridge_packets import Kind, Packet
from vboot.client.bridge_process import BridgeProcess
from vboot.client.forks import OwnerLock
from vboot.protocol.errors import BridgeTimeoutError, LinkLostError
from vboot.protocol.framing import RESYNC, Bytes

_GRACE_SECONDS = 2.0
"""A client that sends 0xFF has given up its request. A child that has not finished it after this time hangs."""


class BridgeLink:
    """A `Link` to one child. It is lost when that child ends; the bridge then makes another link."""

    def __init__(
        self, process: BridgeProcess, lock: OwnerLock, next_number: Callable[[], int], deadline: float
    ) -> None:
        """Ask the runtime to greet. Raises BridgeCrashedError, MachineTimeoutError."""
        self._process: BridgeProcess | None = process
        self._lock = lock
        self._next_number = next_number
        self._awaited: deque[int] = deque()
        self._has_request = False
        self._give_up_at: float | None = None
        self.send(RESYNC, deadline)

    def send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        """Send one whole message, the byte 0xFF, which asks for a greeting, or both.

        Raises LinkLostError, MachineTimeoutError.
        """
        with self._lock:
            process = self._connected()
            if data.startswith(RESYNC) and self._awaited and self._has_request and self._give_up_at is None:
                self._give_up_at = time.monotonic() + _GRACE_SECONDS
            number = self._next_number()
            place = process.slots.put(number, data, blob) if blob else None
            packet = (
                Packet(Kind.REQUEST, number, data + blob)
                if place is None
                else Packet(Kind.REQUEST_IN_SLOT, number, place)
            )
            process.send(packet, deadline)
            self._awaited.append(number)
            self._has_request |= data != RESYNC

    def receive(self, deadline: float) -> bytes:
        """The next reply; b"" at the deadline.

        Raises LinkLostError: BridgeCrashedError, or BridgeTimeoutError if the child hung and was killed.
        """
        with self._lock:
            process = self._connected()
            packet = process.answer(self._awaited[0] if self._awaited else None, deadline)
            if packet is None:
                self._kill_if_hung(process)
                return b""
            self._awaited.popleft()
            if not self._awaited:
                self._has_request, self._give_up_at = False, None
        if packet.kind is not Kind.DONE:
            raise LinkLostError(
                f"the runtime does not answer messages: {packet.data.decode()}", remedy="initialize the bridge again"
            )
        return packet.data

    def close(self) -> None:
        """Disconnect without waiting for outstanding replies. It may be called twice, and does nothing when forked."""
        if not self._lock.is_current():
            return
        with self._lock:
            if self._process is not None:
                self._process.forget(self._awaited)
            self._process = None

    def _kill_if_hung(self, process: BridgeProcess) -> None:
        if self._give_up_at is not None and time.monotonic() > self._give_up_at:
            process.kill()
            what = "the runtime's process did not finish a request that was given up, and was killed"
            raise BridgeTimeoutError(what, remedy="try again: the next call starts another one")

    def _connected(self) -> BridgeProcess:
        if self._process is None:
            raise LinkLostError("the connection to the runtime is closed", remedy="connect again")
        return self._process
