"""Checks a file with the Rust reader (`vector_boot check`) before any Python parser reads it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vboot.errors import InputError, ToolError
from vboot.programs import Completed, capture, ending

GGUF_MAGIC = b"GGUF"
# Hashing runs at 50 MB/s or faster.
START_TIMEOUT_S = 60.0
SLOWEST_BYTES_PER_S = 20e6


class CheckError(InputError):
    """The Rust reader refuses a file.

    Attributes: `rule` ("R1" to "R24" for GGUF, or "RTS"), `field`, `offset` (in bytes); None if the file could not be
    read at all.
    """

    def __init__(self, report: Mapping[str, Any], *, file: Path) -> None:
        self.rule: str | None = report.get("rule")
        self.field: str | None = report.get("field")
        self.offset: int | None = report.get("offset")
        place = f"{self.rule}: {self.field}: offset {self.offset}: " if self.rule else ""
        remedy = "get a sound copy of the file" if self.rule else "check the path or the key"
        super().__init__(f"{file}: {place}{report.get('text', 'refused')}", remedy=remedy)


def check_file(
    executable: Path, file: Path, *, public_key: bytes | None = None, part: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Check a GGUF or RTS file (RTS: the bootable image of executable and model).

    Returns the report of `vector_boot check --json`.

    `public_key` (32 raw bytes, Ed25519) also verifies the signature of an RTS file. With `part`, the first byte and the
    size of a partition, the file is a disk, and the RTS file is in there. Raises CheckError if the file is refused,
    ToolError if the executable itself fails, InputError if the file does not exist.
    """
    size = file_size(file) if part is None else part[1]
    place = [] if part is None else ["--part", f"{part[0]}:{part[1]}"]
    with _key_file(public_key) as key:
        # Absolute, so that no file name is taken for an option.
        command = [str(executable.absolute()), "check", "--json", *key, *place, str(file.absolute())]
        timeout_s = START_TIMEOUT_S + size / SLOWEST_BYTES_PER_S
        completed = capture(command, phase=f"checking {file.name}", timeout_s=timeout_s, remedy="run `vboot build`")
    report = _report(command, completed)
    if not report["ok"]:
        raise CheckError(report, file=file)
    return report


def require_gguf(file: Path) -> None:
    """Look at the first bytes alone. Raises CheckError if they are no GGUF's, InputError if unreadable."""
    try:
        with file.open("rb") as stream:
            magic = stream.read(len(GGUF_MAGIC))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", remedy="check the path") from error
    if magic != GGUF_MAGIC:
        shown = "".join(f"\\x{byte:02x}" if not 32 <= byte < 127 else chr(byte) for byte in magic)
        text = f'is "{shown}", expected "GGUF"'
        raise CheckError({"rule": "R1", "field": "magic", "offset": 0, "text": text}, file=file)


def file_size(file: Path) -> int:
    """Size of a file in bytes. Raises InputError if it does not exist."""
    try:
        return file.stat().st_size
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", remedy="check the path") from error


def _report(command: list[str], completed: Completed) -> dict[str, Any]:
    try:
        report = json.loads(completed.stdout)
        if isinstance(report, dict) and report["ok"] is (completed.returncode == 0):
            return report
    except (ValueError, KeyError):
        pass  # the output is not a report; the error is raised below
    raise ToolError(
        f"vector_boot check ended with {ending(completed.returncode)} and no report",
        command=command, returncode=completed.returncode, stderr=completed.stderr,
        remedy="rebuild the executable with `vboot build`",
    )  # fmt: skip


@contextlib.contextmanager
def _key_file(public_key: bytes | None) -> Iterator[list[str]]:
    """The command-line option for a key; the executable reads keys only from files."""
    if public_key is None:
        yield []
        return
    with tempfile.NamedTemporaryFile(prefix="vboot-key-") as file:
        file.write(public_key)
        file.flush()
        yield ["--key", file.name]
