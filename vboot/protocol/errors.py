"""Exceptions of the client of a running machine. All derive from `MachineError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vboot.errors import VbootError
from vboot.protocol.tables import REMEDIES, Code
from vboot.text import printable

_NAMES_SHOWN = 3


class MachineError(VbootError):
    """A request to a running machine failed."""


class RequestRefusedError(MachineError):
    """The machine answered a request with an error.

    Attributes: `code` (see `vboot.protocol.tables.Code`), `message` as the machine sent it, `data` (a JSON value, or
    None).
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(f"the machine refuses: {printable(message)} (code {int(code)})", remedy=self._remedy())

    @property
    def retry_ms(self) -> int | None:
        """Milliseconds after which the same request may be accepted (codes 1009 and 1017); None if not known."""
        return self._number("retry_ms")

    @property
    def generation(self) -> int | None:
        """The current generation, if the change was made for another one (code 1007)."""
        return self._number("generation")

    @property
    def limit(self) -> int | None:
        """The largest number of edits in one mutation (code 1013)."""
        return self._number("limit")

    def _remedy(self) -> str | None:
        if self.code == Code.STALE_GENERATION and self.generation is not None:
            return f"read what has changed, then make the change for generation {self.generation}"
        if self.code == Code.BUSY and self.retry_ms is not None:
            return "try again in a moment"
        return REMEDIES.get(self.code)

    def _number(self, name: str) -> int | None:
        value = self.data.get(name) if isinstance(self.data, dict) else None
        return value if type(value) is int else None


class MachineBusyError(RequestRefusedError):
    """All connections of the machine are taken (code 1017).

    Attributes: `clients`, the names of those who have them, each as "vboot shell, pid 4711"; it may lack some.
    """

    def __init__(self, clients: tuple[str, ...]) -> None:
        self.clients = clients
        super().__init__(Code.BUSY, "all connections are taken", {"clients": list(clients)})
        names = some_of(clients) or "other programs"
        many = f"all {len(clients)} of its connections are taken, " if len(clients) > 1 else ""
        self.what = f"the machine is busy: {many}in use by {names}"
        self.args = (f"{self.what}; {self.remedy}",)

    def _remedy(self) -> str | None:
        return "end one of these clients, or wait for it"


class TextTooLongError(RequestRefusedError):
    """A text has more tokens than the model reads, and the caller asked for a refusal instead of a cut (code 1004).

    Attributes: `text`, the index (from 0) of the text in the list that was given to `embed`; the message counts from 1.
    """

    def __init__(self, text: int) -> None:
        self.text = text
        super().__init__(Code.MISMATCH, f"text {text + 1} is longer than the model reads", {"text": text})

    def _remedy(self) -> str | None:
        return "shorten it, or let it be cut with --truncate end (in Python, truncate='end')"


class LinkLostError(MachineError):
    """The connection ended: the machine stopped, or its runtime was restarted while a request was running."""


class MachineTimeoutError(MachineError):
    """The machine did not reply, or did not accept the data that was sent, before the deadline."""


class ProtocolError(MachineError):
    """The machine sent something that the protocol does not allow."""


class ForkedProcessError(MachineError):
    """A client or a bridge was used in a process forked from the one that made it. Nothing was sent."""


class BridgeCrashedError(LinkLostError):
    """The runtime's process crashed during a call; the next call starts another one at the same generation."""


class BridgeTimeoutError(LinkLostError):
    """The runtime's process did not finish a call in time and was killed; the next call starts another one."""


def some_of(clients: Sequence[str]) -> str:
    """The names of clients for a sentence: the first three, and how many more there are."""
    names = list(dict.fromkeys(map(printable, clients)))
    more = len(names) - _NAMES_SHOWN
    return "; ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
