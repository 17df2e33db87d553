"""What can go wrong between a client and a running machine: a MachineError, named after what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vboot.errors import VbootError
from vboot.text import printable

STALE, _BUSY = 1007, 1017

REMEDIES: Mapping[int, str] = {
    1001: "see `tensors` for those there are",
    1002: "change another tensor: this one is the machine's own",
    1003: "see `tensors` for how long the tensor is",
    1004: "see `tensors` for its type and shape",
    1005: "use smaller values, or roll back if it is the weights that give none",
    1006: "give a confidence above 0.8, up to 1",
    STALE: "see what has changed, then base the change on the current generation",
    1008: "give values that differ from those there are",
    1009: "wait so long, or mutate with --wait",
    1010: "sign the change with the key that the machine was built for",
    1011: "send it again",
    1012: "send no more than the limits in `hello`, and an upload from its beginning",
    1013: "make several changes of it",
    1014: "see `history` for the generations there are",
    1015: "promote or roll back what is on trial; a journal that has failed needs a reboot",
    1016: "see the machine's console, then shut it down and boot a sound image",
    _BUSY: "end the other client, or ask for less at once",
    1018: "boot a machine whose model can",
    1019: "use a dense edit, or a tensor of another type",
    1020: "give a new id",
}
"""What to do about a refusal, by its code of the protocol's table."""


class MachineError(VbootError):
    """The running machine could not do, or did not do, what was asked of it."""


class RequestRefusedError(MachineError):
    """The machine answered a request with an error.

    Attributes: `code` of the protocol's table, `message` as the machine sent it, `data` (a JSON value, or None).
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(f"the machine refuses: {printable(message)} (code {code})", remedy=self._remedy())

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

    def _remedy(self) -> str | None:
        if self.code == STALE and self.generation is not None:
            return f"see what has changed, then base the change on generation {self.generation}"
        if self.code == _BUSY and self.retry_ms is not None:
            return "try again in a moment"
        return REMEDIES.get(self.code)

    def _number(self, name: str) -> int | None:
        value = self.data.get(name) if isinstance(self.data, dict) else None
        return value if type(value) is int else None


class LinkLostError(MachineError):
    """The connection is gone: the machine has ended, or its runtime was started anew during a request."""


class MachineTimeoutError(MachineError):
    """The machine did not answer, or did not take what was sent, before the deadline."""


class ProtocolError(MachineError):
    """What the machine sent is not what the protocol allows."""


class BridgeCrashedError(LinkLostError):
    """The process that holds the runtime died during a call; the next call starts another, at the same generation."""


class BridgeTimeoutError(LinkLostError):
    """The process that holds the runtime did not come back from a call in time and was killed; the next starts anew."""
