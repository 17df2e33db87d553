"""The exceptions that all others derive from. Only the command line prints them."""

from __future__ import annotations

from pathlib import Path


class VbootError(Exception):
    """An error that the user can act on.

    Attributes: `what`, one sentence that says what failed and where; `remedy`, what to do about it, or None.
    """

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class InputError(VbootError):
    """A file, an argument or a setting is wrong. Nothing was written."""


class ToolError(VbootError):
    """An external program is missing or failed.

    Attributes: `command` (its arguments), `returncode` (None if it could not be started), `stderr` (its last lines).
    """

    def __init__(
        self,
        what: str,
        *,
        command: list[str],
        returncode: int | None = None,
        stderr: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.command = command
        self.returncode = returncode
        self.stderr = stderr


class BootError(VbootError):
    """A machine did not reach the phase `phase` in time, or ended. `artefacts`: its run folder, or None."""

    def __init__(self, what: str, *, phase: str, artefacts: Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.phase = phase
        self.artefacts = artefacts
