"""Describes the host of a run: machine, versions, commit, date."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from qemu.accel import Accel, qemu_version
from vboot.programs import capture

REPOSITORY = Path(__file__).resolve().parents[2]
_QUERY_SECONDS = 30.0


def describe_host(accel: Accel) -> dict[str, str]:
    """The machine and its state, label to text. Raises ToolError when git or QEMU cannot be run."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "CPU": f"{_first_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(_first_field('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "QEMU": qemu_version(),
        "accelerator": accel.name,
        "load at the start": f"{load} (1, 5, 15 minutes)",
    }


def first_line(command: Sequence[str]) -> str:
    """The first line of a program's version text. Raises ToolError when it cannot be run."""
    done = capture(command, phase=f"asking {command[0]} for its version", timeout_s=_QUERY_SECONDS)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _commit() -> str:
    """The checked-out commit, and whether files differ from it (except those that a run writes itself)."""
    head = first_line(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]) or "unknown"
    others = [":!docs/benchmarks.md", ":!docs/benchmarks.json"]
    status = first_line(["git", "-C", str(REPOSITORY), "status", "--porcelain", "--", ".", *others])
    return f"{head}, with changes" if status else head


def _first_field(path: str, label: str) -> str:
    """The text after the first `label ... :` of a file in /proc, or "unknown"."""
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == label:
            return value.strip()
    return "unknown"
