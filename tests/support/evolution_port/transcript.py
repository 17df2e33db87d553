"""The evolution port's transcript, `channel.jsonl`: what went over the port, both directions, with times."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["in", "out"]
"""Seen from the host: `in` came from the guest."""

_TEXT_LIMIT = 8192
_BLOB_LIMIT = 768


def entry(direction: Direction, data: bytes, *, blob: bool, monotonic: float, wall: float) -> dict[str, object]:
    """One transcript record: seconds `t` (monotonic) and `wall` (since 1970), `dir`, `bytes`, then `text` or `base64`.

    Bytes that are not UTF-8 are base64 too. Long data is cut (text at 8192 characters, base64 at 768 bytes): `cut`.
    """
    record: dict[str, object] = {"t": round(monotonic, 6), "wall": round(wall, 6), "dir": direction, "bytes": len(data)}
    text = None if blob else _text(data)
    if text is None:
        record["base64"] = base64.b64encode(data[:_BLOB_LIMIT]).decode("ascii")
    else:
        record["text"] = text[:_TEXT_LIMIT]
    if len(data) > _BLOB_LIMIT if text is None else len(text) > _TEXT_LIMIT:
        record["cut"] = True
    return record


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


class Transcript:
    """An open `channel.jsonl`. Each record is one write to its end, so a kill loses at most the last one."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def record(self, direction: Direction, data: bytes, *, blob: bool = False) -> None:
        """Append what was just sent or received; nothing for no bytes."""
        if data:
            line = json.dumps(entry(direction, data, blob=blob, monotonic=time.monotonic(), wall=time.time()))
            os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
