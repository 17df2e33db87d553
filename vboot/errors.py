"""The one exception tree. Every error a user can cause is a VbootError; the command line alone prints it."""

from __future__ import annotations

from pathlib import Path


class VbootError(Exception):
    """A failure the user can act on: one sentence of what and where, and a remedy."""

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class InputError(VbootError):
    """A file, an option or a setting from the user is wrong. Nothing was written."""


class ToolError(VbootError):
    """An external program is missing or failed.

    Attributes: command (argv), returncode (None if it never started), stderr (its last lines).
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
    """A machine did not reach a phase in time, or died. `artefacts` is the run folder that tells why."""

    def __init__(self, what: str, *, phase: str, artefacts: Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.phase = phase
        self.artefacts = artefacts
