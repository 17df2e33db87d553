"""The connection of a session: one link after another, and the messages that arrive on the present one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from vboot.client.link import Link
from vboot.protocol.errors import LinkLostError
from vboot.protocol.framing import Bytes, Incoming, Reader, Spoilt
from vboot.protocol.tables import BLOB_STALL_MS

_SLICE_SECONDS = 0.1
_BLOB_STALL_SECONDS = BLOB_STALL_MS / 1000


class Connection:
    """Opens links and reads messages from them. A link that is lost is closed, and `open` makes another one.

    `open_link` connects before the deadline it is given. `check` is called about ten times a second during every wait;
    an exception that it raises ends the wait. Deadlines are times of the monotonic clock in seconds.
    """

    def __init__(self, open_link: Callable[[float], Link], check: Callable[[], None]) -> None:
        self.heard = False
        """Whether anything has arrived on this link."""
        self._open_link = open_link
        self._check = check
        self._link: Link | None = None
        self._reader = Reader()
        self._inbox: deque[Incoming] = deque()

    @property
    def is_open(self) -> bool:
        """Whether there is a link; the machine may have closed its end unnoticed."""
        return self._link is not None

    def open(self, deadline: float) -> None:
        """Connect. Raises LinkLostError, MachineTimeoutError, MachineBusyError."""
        self._link = self._open_link(deadline)
        self.heard = False

    def close(self, *, forget: bool = False) -> None:
        """Disconnect, or only `forget` the link: that of another process."""
        if self._link is not None and not forget:
            self._link.close()
        self._link = None

    def begin_message(self) -> None:
        """Ignore what has arrived: data that was read in part may belong to an earlier message."""
        self._reader = Reader()
        self._inbox.clear()

    def send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        """Send whole messages, the last one with its blob; the link stays as it is after an error.

        Raises LinkLostError, MachineTimeoutError.
        """
        self._opened().send(data, deadline, blob)

    def wait(self, deadline: float) -> Incoming | None:
        """The next incoming message; None at the deadline. Raises LinkLostError, and what `check` raises."""
        quiet_since = time.monotonic()
        while not self._inbox:
            self._check()
            now = time.monotonic()
            if self._fill(min(deadline, now + _SLICE_SECONDS)):
                quiet_since = now
            elif self._reader.in_blob and now - quiet_since > _BLOB_STALL_SECONDS:
                self._reader = Reader()
                return Spoilt("an incomplete blob")
            if not self._inbox and now >= deadline:
                return None
        return self._inbox.popleft()

    def read_arrived(self) -> None:
        """Read what has arrived, without waiting. Raises LinkLostError."""
        if self._link is not None:
            self._fill(0.0)

    def next_arrived(self) -> Incoming | None:
        """The next message that was read already."""
        return self._inbox.popleft() if self._inbox else None

    def pause(self, seconds: float) -> None:
        """Wait and read nothing. Raises what `check` raises."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, _SLICE_SECONDS))

    def _fill(self, deadline: float) -> bool:
        """Read what arrives into the inbox; whether anything arrived. Raises LinkLostError."""
        try:
            data = self._opened().receive(deadline)
        except LinkLostError:
            self.close()
            raise
        self._inbox.extend(self._reader.feed(data))
        self.heard = self.heard or bool(data)
        return bool(data)

    def _opened(self) -> Link:
        if self._link is None:
            raise LinkLostError("the connection to the machine is closed", remedy="connect again")
        return self._link
