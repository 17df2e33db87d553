"""`vboot status`: everything about one machine on one screen; of one that has ended, how."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from cli.answer import Answer, columns
from cli.machines import TIMEOUT_S, machine_path, newest_running
from cli.option_types import positive_seconds
from cli.ps import up_time
from qemu.ending import ending
from qemu.registry import Entry, parse_entry, running_in
from qemu.run_folder import RunFolder, listens, open_run_folder
from qemu.state_file import loss
from vboot.client.machine import connect
from vboot.client.ports import clients
from vboot.errors import InputError, VbootError
from vboot.text import parse_path, path_text, printable, shell_join


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "run", nargs="?", type=machine_path, metavar="RUN",
        help="run folder, or its name (default: the newest machine that runs)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=positive_seconds, default=TIMEOUT_S, metavar="S",
        help=f"seconds to wait for the machine (default {TIMEOUT_S:g})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> Answer:
    """Describe the machine. It is no failure that it has ended, or does not answer."""
    run = arguments.run or newest_run()
    try:
        folder = open_run_folder(run)
        entry = parse_entry(folder.machine.read_bytes())
        if entry is None:
            raise InputError(f"{path_text(folder.machine)} is damaged", remedy="stop it with `vboot stop RUN`")
    except InputError:
        registered = running_in(run)
        if registered is None:
            raise
        return _without_folder(registered)
    record = _record(folder)
    data = {"run": folder.path, "model": record.get("model") or "not known", "image": _image(record)}
    data |= {"pid": entry.pid, "accel": entry.accel, "memory_mib": record.get("memory_mib"), "state_file": entry.state}
    if entry.is_running() or listens(folder):
        data |= _alive(entry, arguments.timeout)
    else:
        data |= {"state": "ended", "ended": ending(folder)}
    return Answer(data, columns(_rows(data)), report_only=True)


def _without_folder(entry: Entry) -> Answer:
    """What the register says of a machine that runs without a sound run folder."""
    why = "its machine.json is missing or damaged" if entry.has_folder() else "its run folder was removed or renamed"
    data = {
        "run": entry.run,
        "model": entry.model or "not known",
        "image": None,
        "pid": entry.pid,
        "accel": entry.accel,
    }
    data |= {
        "memory_mib": None,
        "state_file": entry.state,
        "state": f"running, but {why}: end it with `{shell_join(['vboot', 'stop', str(entry.run)])}`",
    }
    data |= {"uptime_s": round(max(0.0, time.time() - entry.started_wall), 1)}
    return Answer(data, columns(_rows(data)), report_only=True)


def newest_run() -> Path:
    """The run folder of the newest machine that runs. Raises InputError."""
    with newest_running() as machine:
        return machine.run


def _record(folder: RunFolder) -> dict[str, Any]:
    try:
        record = json.loads(folder.machine.read_bytes())
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _image(record: dict[str, Any]) -> Path | None:
    """The image: the disk that firmware booted, or the folder of the first file that the machine was made from."""
    inputs, disk = record.get("inputs"), record.get("disk")
    try:
        if disk is not None:
            return parse_path(disk)
        return parse_path(inputs[0]["path"]).parent if inputs else None
    except (KeyError, TypeError, ValueError):
        return None


def _alive(entry: Entry, timeout: float) -> dict[str, Any]:
    data: dict[str, Any] = {"state": "running" if entry.is_running() else "running where its process is out of sight"}
    data |= {
        "uptime_s": round(max(0.0, time.time() - entry.started_wall), 1),
        "clients": list(clients(entry.evolution)),
        "state_lost": loss(entry.state, entry.pid) if entry.state is not None and entry.is_running() else None,
    }
    try:
        with connect(entry.evolution, timeout=timeout, client="vboot status") as machine:
            hello, stats = machine.greeted, machine.stats()
    except VbootError as error:
        return data | {"answers": str(error)}
    restarts, late = stats.worker.restarts, stats.heartbeat_late_us.p99
    data |= {"generation": hello.generation, "promoted": hello.promoted, "worker_restarts": restarts}
    return data | {"emergency": hello.emergency, "heartbeats": stats.heartbeats, "heartbeat_late_p99_us": late}


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    shown = {
        "state": f"ended: {data['ended']}" if "ended" in data else data["state"],
        "run": path_text(data["run"]),
        "model": printable(data["model"]),
        "image": path_text(data["image"]) if data["image"] else None,
        "process": f"{data['pid']} ({data['accel']})",
        "memory": f"{data['memory_mib']} MiB" if data["memory_mib"] else None,
        "state file": path_text(data["state_file"]) if data["state_file"] else None,
        "state lost": data.get("state_lost"),
        "up": up_time(data["uptime_s"]) if "uptime_s" in data else None,
        "emergency": printable(data["emergency"]) if data.get("emergency") else None,
        "generation": data.get("generation"),
        "promoted": f"generation {data['promoted']}, which survives a restart" if "promoted" in data else None,
        "worker": f"restarted {data['worker_restarts']} times" if "worker_restarts" in data else None,
        "heartbeats": data.get("heartbeats"),
        "no answer": data.get("answers"),
    }
    rows = [(name, str(value)) for name, value in shown.items() if value is not None]
    return rows + [("clients" if place == 0 else "", name) for place, name in enumerate(_users(data))]


def _users(data: dict[str, Any]) -> list[str]:
    return data.get("clients") or ["none"] if "clients" in data else []
