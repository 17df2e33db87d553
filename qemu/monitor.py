"""QMP, QEMU's control socket, through QEMU's own asyncio library and without asyncio for the caller."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from vboot.errors import BootError
from vboot.text import path_text

_T = TypeVar("_T")
_POLL = 0.01


class Monitor:
    """One QMP connection, for a thread that runs no event loop of its own. QEMU serves one at a time."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client = QMPClient()
        self._events: list[dict[str, object]] = []

    def connect(self, path: Path, *, seconds: float, check: Callable[[], None]) -> str:
        """Connect and negotiate; QEMU's version. `check` is called again and again and raises when QEMU is dead.

        Raises BootError (phase spawn) when QMP does not answer within `seconds`.
        """
        deadline = time.monotonic() + seconds
        stream = _connect_socket(path, deadline=deadline, check=check)
        try:
            self._within(max(_POLL, deadline - time.monotonic()), self._client.connect(stream))
        # The library asserts that the connection it has just made still stands; a QEMU that dies at once breaks that.
        except (QMPError, OSError, TimeoutError, AssertionError) as error:
            stream.close()
            check()
            raise BootError(f"QMP at {path_text(path)} does not answer within {seconds:g} s", phase="spawn") from error
        greeting = self._client.greeting
        version = greeting.QMP.version if greeting else {}
        number = version.get("qemu") if isinstance(version, dict) else None
        return ".".join(str(number[part]) for part in ("major", "minor", "micro")) if isinstance(number, dict) else ""

    @property
    def connected(self) -> bool:
        """Whether the connection stood when it was last used."""
        return self._client.runstate is Runstate.RUNNING

    def execute(self, command: str, arguments: dict[str, object] | None = None, *, seconds: float) -> object:
        """Run one command; its result. Raises BootError (phase command) on refusal, silence and disconnection."""
        try:
            return self._within(seconds, self._client.execute(command, arguments))
        except ExecuteError as error:
            raise BootError(f"QEMU refused {command} ({error})", phase="command") from error
        except TimeoutError as error:
            raise BootError(f"QEMU did not answer {command} within {seconds:g} s", phase="command") from error
        except (QMPError, OSError, EOFError) as error:
            raise BootError(f"QMP closed during {command}", phase="command") from error

    def events(self) -> list[dict[str, object]]:
        """Every event since the connection, oldest first, as QMP sends them."""
        # The library reads only while its loop runs.
        with contextlib.suppress(TimeoutError):
            self._within(_POLL, asyncio.sleep(_POLL / 2))
        self._events += [dict(event) for event in self._client.events.clear()]
        return list(self._events)

    def close(self) -> None:
        """Disconnect. QEMU runs on."""
        # `execute` has already raised the error of the connection, or it does not matter any more.
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            self._within(1.0, self._client.disconnect())
        self._runner.close()

    def _within(self, seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(seconds):
                return await work

        return self._runner.run(bounded())


def _connect_socket(path: Path, *, deadline: float, check: Callable[[], None]) -> socket.socket:
    while True:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A connect blocks while others queue for the same socket.
        stream.settimeout(max(_POLL, deadline - time.monotonic()))
        try:
            stream.connect(str(path))
        except OSError as error:
            stream.close()
            check()
            if time.monotonic() > deadline:
                raise BootError(f"QEMU did not open its QMP socket {path_text(path)} in time", phase="spawn") from error
            time.sleep(_POLL)
        else:
            return stream
