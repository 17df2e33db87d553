"""A long-running child process: each line sent to it is one task, each line of its output gives the time it took."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.host import REPOSITORY
from vboot.errors import ToolError

_ANSWER_SECONDS = 120.0
_EXIT_SECONDS = 10.0


class TimedChild:
    """Runs `command`, which answers each line on stdin with `NANOSECONDS COUNT` on stdout. A context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,  # so that poll sees all data
                cwd=REPOSITORY,
            )
        except OSError as error:
            self._errors.close()
            raise ToolError(f"{command[0]} cannot be run: {error.strerror}", command=self._command) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def ask(self, task: Path | str) -> tuple[float, int]:
        """Seconds and count for one task. Raises ToolError when the child ends or is silent for two minutes."""
        try:
            self._questions.write(f"{task}\n".encode())
        except OSError:
            raise self._failed("took no more work") from None
        fields = self._line().split()
        if len(fields) != 2:
            raise self._failed(f"gave no answer for {Path(task).name}")
        return int(fields[0]) / 1e9, int(fields[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._questions.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def _line(self) -> bytes:
        """The next line; an incomplete one if the child closes its output."""
        descriptor = self._answers.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        until = time.monotonic() + _ANSWER_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            if not poller.poll(max(0.0, until - time.monotonic()) * 1000):
                raise self._failed(f"gave no answer within {_ANSWER_SECONDS:g} s")
            piece = os.read(descriptor, 4096)
            if not piece:
                return line
            line += piece
        return line

    def _failed(self, what: str) -> ToolError:
        self._process.kill()
        status = self._process.wait()
        self._errors.seek(0)
        stderr = self._errors.read().decode("utf-8", "replace").strip()
        last = stderr.rpartition("\n")[2]
        return ToolError(
            f"{Path(self._command[0]).name} {what}{f' ({last})' if last else ''}",
            command=self._command,
            returncode=status,
            stderr=stderr,
        )
