"""`vboot ps`: this user's running machines, whatever folder they were booted in."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from cli.answer import Answer, columns
from qemu.registry import Entry, running
from vboot.client.machine import connect
from vboot.client.ports import clients
from vboot.errors import VbootError
from vboot.text import path_text

_ANSWER_S = 2.0
"""Enough to pass by several ports that programs without locks use."""


def configure(_parser: argparse.ArgumentParser) -> None:
    """This verb has no options of its own."""


def run(_arguments: argparse.Namespace) -> Answer:
    """List them, the last started first."""
    machines = [_described(entry) for entry in running()]
    if not machines:
        return Answer({"machines": []}, "no machine of yours runs", report_only=True)
    return Answer({"machines": machines}, columns([_HEAD, *map(_row, machines)]), report_only=True)


_HEAD = ("run", "pid", "up", "accel", "gen", "model", "state", "clients")


def _described(entry: Entry) -> dict[str, Any]:
    try:
        holders = clients(entry.evolution)  # before we are one ourselves
    except OSError:  # a run folder that cannot be looked into
        holders = ()
    return {
        "run": entry.run,
        "pid": entry.pid,
        "visible": entry.is_running(),
        "uptime_s": round(max(0.0, time.time() - entry.started_wall), 1),
        "accel": entry.accel,
        "generation": _generation(entry),
        "model": entry.model,
        "state_file": entry.state,
        "clients": list(holders),
    }


def _generation(entry: Entry) -> int | None:
    """The generation of its weights; None if it does not answer at once, as a busy or booting machine does."""
    try:
        with connect(entry.evolution, timeout=_ANSWER_S, client="vboot ps") as machine:
            return machine.greeted.generation
    except (VbootError, OSError):
        return None


def _row(machine: dict[str, Any]) -> tuple[str, ...]:
    return (
        machine["run"].name,
        str(machine["pid"]) if machine["visible"] else f"{machine['pid']} (elsewhere)",
        up_time(machine["uptime_s"]),
        machine["accel"],
        "-" if machine["generation"] is None else str(machine["generation"]),
        machine["model"] or "-",
        "-" if machine["state_file"] is None else path_text(Path(machine["state_file"].name)),
        _users(machine["clients"]),
    )


def _users(names: list[str]) -> str:
    """Who uses a machine, short enough for a table: `vboot status` names all."""
    return names[0] if len(names) == 1 else f"{len(names)} clients" if names else "none"


def up_time(seconds: float) -> str:
    """Seconds as "42 s", "17 min", "5 h" or "3 d"."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"
