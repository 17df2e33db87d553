"""The verdict of a run: what `verdict.json` says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from qemu.accel import Accel
from qemu.console import BootPhase
from vboot.text import path_json

RunOutcome: TypeAlias = Literal["stopped", "ended", "detached", "died", "panic", "timeout", "failed", "interrupted"]
"""`stopped` by the host, `ended` by itself (the guest powered off), `detached` and running on; the rest failed."""

_HASH_LIMIT = 32 << 20


@dataclass(frozen=True)
class RunVerdict:
    """How a run ended, and what one needs to judge it. Times in seconds, `phases_us` in microseconds."""

    outcome: RunOutcome
    phase: BootPhase
    why: str
    accel: Accel
    qemu_version: str
    started_wall: float
    duration_s: float
    exit_status: int | None
    timeouts_s: dict[str, float]
    phases_us: dict[str, int]
    events: list[dict[str, object]]
    inputs: list[dict[str, object]]
    console_tail: str

    def to_json(self) -> dict[str, object]:
        """The JSON object, with the host's load average (it explains many a timeout)."""
        return {**asdict(self), "loadavg": list(os.getloadavg())}


def describe_input(path: Path) -> dict[str, object]:
    """What a run was made from: `path`, `bytes`, and `sha256` up to 32 MiB (larger ones would delay the boot)."""
    try:
        size = path.stat().st_size
        record: dict[str, object] = {"path": path_json(path.absolute()), "bytes": size}
        if size <= _HASH_LIMIT:
            record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return {"path": path_json(path.absolute()), "unreadable": error.strerror}
    return record
