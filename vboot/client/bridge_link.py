"""The protocol carried to a bridge's child: a link like the socket of a booted machine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from vboot.client.bridge_packets import Kind, Packet
from vboot.client.bridge_process import BridgeProcess, OwnerLock
from vboot.protocol.errors import BridgeTimeoutError, LinkLostError
from vboot.protocol.framing import RESYNC

_GRACE_SECONDS = 2.0
"""A client that sends 0xFF has given up what it asked for; a child that is not back from it by then is held to hang."""


class BridgeLink:
    """A `Link` to one child. It is lost when that child ends; the bridge makes another."""

    def __init__(
        self, process: BridgeProcess, lock: OwnerLock, next_number: Callable[[], int], deadline: float
    ) -> None:
        """Connect: the machine greets. Raises BridgeCrashedError, MachineTimeoutError."""
        self._process: BridgeProcess | None = process
        self._lock = lock
        self._next_number = next_number
        self._awaited: deque[int] = deque()
        self._has_request = False
        self._give_up_at: float | None = None
        self.send(RESYNC, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """Send one whole message, or the byte that asks for a greeting, or both.

        Raises LinkLostError, MachineTimeoutError.
        """
        with self._lock:
            process = self._connected()
            if data.startswith(RESYNC) and self._awaited and self._has_request and self._give_up_at is None:
                self._give_up_at = time.monotonic() + _GRACE_SECONDS
            number = self._next_number()
            process.send(Packet(Kind.REQUEST, number, data), deadline)
            self._awaited.append(number)
            self._has_request |= data != RESYNC

    def receive(self, deadline: float) -> bytes:
        """The next reply; b"" at the deadline.

        Raises LinkLostError: BridgeCrashedError, or BridgeTimeoutError if it was killed.
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
                f"the runtime takes no messages: {packet.data.decode()}", remedy="initialize the bridge again"
            )
        return packet.data

    def close(self) -> None:
        """Disconnect; what is still to be answered is not waited for. Closing twice is fine.

        In a forked process it does nothing.
        """
        if not self._lock.is_owned:
            return
        with self._lock:
            if self._process is not None:
                self._process.forget(self._awaited)
            self._process = None

    def _kill_if_hung(self, process: BridgeProcess) -> None:
        if self._give_up_at is not None and time.monotonic() > self._give_up_at:
            process.kill()
            what = "the runtime's process did not come back from a request that was given up, and was killed"
            raise BridgeTimeoutError(what, remedy="try again: another one is started")

    def _connected(self) -> BridgeProcess:
        if self._process is None:
            raise LinkLostError("the connection to the runtime is closed", remedy="connect again")
        return self._process
