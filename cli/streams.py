"""The standard streams, made safe for every verb.

A closed stream is replaced by the null device. A character that an encoding lacks is escaped. A message that cannot be
written to stderr is dropped. An answer that cannot be written to stdout raises OutputError, and `cli.main` decides what
that means for the exit code.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from cli.errors import OutputError
from vboot.text import printable

_ERRORS = "vboot.escape"
"""The name of our handler of characters that an encoding lacks."""


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Within it `sys.stdin`, `sys.stdout` and `sys.stderr` are there, and writing to stderr never fails."""
    before = sys.stdin, sys.stdout, sys.stderr
    _open_closed_descriptors()
    # Python has None in place of a stream that was closed when it started.
    null = open(os.devnull, "r+", encoding="utf-8") if None in before else None  # noqa: SIM115, PTH123
    stdin, stdout, stderr = (cast("TextIO", null if stream is None else stream) for stream in before)
    for stream in (stdout, stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, cast("TextIO", _DroppingStream(stderr))
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        if null is not None:
            null.close()


def write_out(text: str) -> None:
    """Write a line (or more) to stdout, through to its reader. Raises OutputError."""
    try:
        sys.stdout.write(f"{text}\n")
    except (OSError, ValueError) as error:
        raise _lost(error) from error
    flush_out()


def flush_out() -> None:
    """Write what stdout still holds. Raises OutputError."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        raise _lost(error) from error


def warn(text: str) -> None:
    """Write a warning to stderr, one line."""
    sys.stderr.write(f"vboot: warning: {printable(' '.join(text.splitlines()))}\n")
    sys.stderr.flush()


class _DroppingStream:
    """A text stream that drops text it cannot write: a failed progress message must not end the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _dropped(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _dropped(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _dropped(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        _silence(stream)


def _lost(error: OSError | ValueError) -> OutputError:
    _silence(sys.stdout)
    why = (isinstance(error, OSError) and error.strerror) or str(error)
    return OutputError(f"the answer cannot be written to stdout: {why}", reader_left=isinstance(error, BrokenPipeError))


def _silence(stream: TextIO) -> None:
    """Point a broken stream's descriptor to the null device: Python flushes it once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _open_closed_descriptors() -> None:
    """Have descriptors 0 to 2 open, or the next file that is opened would become a standard stream of our children."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    escaped = "".join(printable(char) if "\udc80" <= char <= "\udcff" else _backslashed(char) for char in text)
    return escaped, error.end


def _backslashed(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_ERRORS, _escape)
