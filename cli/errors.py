"""What ends a verb early, and its form in --json: errors, Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
from typing import Any

from vboot.errors import VbootError
from vboot.text import path_text

# As a shell reports a program that a signal ended: 128 and the signal's number.
INTERRUPTED = 130
TERMINATED = 143
HUNG_UP = 129


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came; the code is that of the exit."""


class OutputError(Exception):
    """An answer could not be written to stdout. `reader_left`: it is a pipe whose reader has closed it."""

    def __init__(self, message: str, *, reader_left: bool) -> None:
        super().__init__(message)
        self.reader_left = reader_left


class VerbStopped(BaseException):
    """Ctrl-C or SIGTERM (`by`) ended a verb that has more to say about it: `doubt`, and `details` for --json.

    Attributes: `error` as JSON, `exit_code`.
    """

    def __init__(self, by: KeyboardInterrupt | Terminated, doubt: str = "", **details: str) -> None:
        kind, self.exit_code = (
            ("Terminated", int(by.code or TERMINATED)) if isinstance(by, Terminated) else ("Interrupted", INTERRUPTED)
        )
        message = f"{kind.lower()}: {doubt}" if doubt else kind.lower()
        super().__init__(message)
        self.error: dict[str, Any] = {"type": kind, "message": message} | details


def described(error: Exception) -> dict[str, Any]:
    """An error as JSON; its message is the line that people see."""
    if isinstance(error, VbootError):
        details = {name: value for name, value in vars(error).items() if value is not None}
        # Last, as an error may have a message of its own, from a machine and not fit for a terminal.
        return {"type": type(error).__name__} | details | {"message": str(error)}
    if isinstance(error, OSError) and error.strerror:
        named = isinstance(error.filename, str | bytes) and error.filename
        place = f"{path_text(os.fsdecode(named))}: " if named else ""
        return {"type": type(error).__name__, "message": f"{place}{error.strerror}"}
    return {
        "type": type(error).__name__,
        "message": f"internal error: {type(error).__name__}: {error}; run it again with --debug and report it",
    }
