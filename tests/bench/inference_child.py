"""A runtime as a child process that computes embeddings of token ids and reports the duration of each pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.bench.timed_child import TimedChild

Texts: TypeAlias = Sequence[Sequence[int]] | Sequence[str]
"""One batch: for each text its token ids, or the text itself."""


@dataclass(frozen=True)
class Pass:
    """The cost of one batch: `seconds` of the pass alone.

    A driver in Python also says what is not its runtime's: `python_seconds` until the interpreter had imported the
    runtime, `python_bytes` of anonymous memory held by then. Both are 0 for a program of its own.
    """

    seconds: float
    python_seconds: float
    python_bytes: int


class EmbeddingChild(TimedChild):
    """Runs `command`, which answers each batch on stdin with a line of one to three numbers on stdout."""

    def embed(self, texts: Texts) -> Pass:
        """One pass. Raises ToolError when the child ends or is silent for two minutes."""
        try:
            self._questions.write(f"{json.dumps(texts)}\n".encode())
        except OSError:
            raise self._failed("took no more work") from None
        fields = [int(field) for field in self._line().split()]
        if not fields:
            raise self._failed("gave no answer")
        nanoseconds, python_nanoseconds, python_bytes = (*fields, 0, 0)[:3]
        return Pass(nanoseconds / 1e9, python_nanoseconds / 1e9, python_bytes)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid
