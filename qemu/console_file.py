"""Following a console log while QEMU writes it."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from qemu import console
from qemu.console import BootPhase

_CHUNK = 1 << 20
_OVERLAP = 4096
"""How much is looked at again with the next bytes: the longest text a pattern can span across two reads."""


@dataclass(frozen=True)
class ConsoleMatch:
    """A text found on the console, its pattern's groups, and the byte of the log where it ended."""

    text: str
    groups: tuple[str | None, ...]
    end: int


class ConsoleFile:
    """A cursor in a console log, from byte `start` on. The file need not exist yet."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._window_start = start
        self._window = b""

    def read(self) -> bytes:
        """The next bytes with those before them that a text may span; b"" when nothing new was written."""
        kept = self._window[-_OVERLAP:]
        self._window_start += len(self._window) - len(kept)
        self._window = kept
        try:
            with self._path.open("rb") as file:
                file.seek(self._window_start + len(kept))
                fresh = file.read(_CHUNK)
        except FileNotFoundError:
            fresh = b""
        self._window = kept + fresh
        return self._window if fresh else b""

    def search(self, pattern: re.Pattern[bytes], *, until: float, limit: int | None = None) -> ConsoleMatch | None:
        """Read on to the current end of the log; the first match, or None.

        A guest may print faster than this reads: it stops at the monotonic time `until`, and behind byte `limit`.
        """
        while window := self.read():
            match = pattern.search(window)
            if match:
                groups = tuple(None if group is None else console.clean(group) for group in match.groups())
                return ConsoleMatch(console.clean(match[0]), groups, self._window_start + match.end())
            if time.monotonic() > until or (limit is not None and self._window_start + len(window) > limit):
                break
        return None


class ConsoleState:
    """What the console has said so far of the machine's progress, kept up with a bounded amount of reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot_phase: BootPhase = "firmware"
        self.panic: str | None = None
        self._file = ConsoleFile(path)

    def update(self) -> None:
        """Take in what was written since."""
        window = self._file.read()
        now = console.boot_phase(window)
        if console.BOOT_PHASES.index(now) > console.BOOT_PHASES.index(self.boot_phase):
            self.boot_phase = now
        self.panic = self.panic or console.panic(window)

    def size(self) -> int:
        """Bytes on the console so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def finish(self) -> None:
        """Take in the end of the log, however far behind the reading is."""
        self.update()
        self.panic = self.panic or console.panic(self._last(_CHUNK))

    def tail(self, *, lines: int = 40) -> str:
        """The last lines, safe to print."""
        return console.tail(self._last(lines * 512), lines=lines)

    def _last(self, size: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read()
        except FileNotFoundError:
            return b""

    def phases(self) -> dict[str, int]:
        """Microseconds of each appliance phase, from the log's first MiB (a boot says far less)."""
        try:
            with self.path.open("rb") as file:
                return console.phases(file.read(_CHUNK))
        except FileNotFoundError:
            return {}
