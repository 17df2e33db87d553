"""What can go wrong between a client and a running machine: a MachineError, named after what happened."""

from __future__ import annotations

from typing import Any

from vboot_errors import VbootError


class MachineError(VbootError):
    """The running machine could not do, or did not do, what was asked of it."""


class Refused(MachineError):  # noqa: N818
    """The machine answered a request with an error.

    Attributes: `code` of the protocol's table, `message` as the machine sent it, `data` (a JSON value, or None).
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"the machine refuses: {printable(message)} (code {code})")
        self.code = code
        self.message = message
        self.data = data

    @property
    def retry_ms(self) -> int | None:
        """After how many milliseconds the same may be accepted (1009, 1017)."""
        return self._number("retry_ms")

    @property
    def generation(self) -> int | None:
        """The current generation, for a change that was made for another one (1007)."""
        return self._number("generation")

    @property
    def limit(self) -> int | None:
        """How many edits one change may have (1013)."""
        return self._number("limit")

    def _number(self, name: str) -> int | None:
        value = self.data.get(name) if isinstance(self.data, dict) else None
        return value if type(value) is int else None


class LinkLost(MachineError):  # noqa: N818
    """The connection is gone: the machine has ended, or its runtime was started anew during a request."""


class TimedOut(MachineError):  # noqa: N818
    """The machine did not answer, or did not take what was sent, before the deadline."""


class ProtocolBroken(MachineError):  # noqa: N818
    """What the machine sent is not what the protocol allows."""


def printable(text: str) -> str:
    """A text of the machine's, safe on a terminal: what cannot be printed, such as an escape sequence, is spelt out."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class BridgeCrashed(LinkLost):
    """The process that holds the runtime died during a call; the next call starts another, at the same generation."""


class BridgeHung(LinkLost):
    """The process that holds the runtime did not come back from a call in time and was killed; the next starts anew."""
