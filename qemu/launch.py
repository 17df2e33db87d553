"""Starting a machine, and finding one again that was started before.

    with start(spec, accel=select("auto")) as machine:
        machine.wait_for_console("Entering Heartbeat Loop")
        machine.powerdown()
        machine.wait_exit()

It then belongs to a `VirtualMachine`, whose context ends it whatever happens.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from qemu.accel import QEMU, Accel, select
from qemu.machine import VirtualMachine
from qemu.process import Process, reopen, spawn, start_ticks
from qemu.run_folder import RunFolder, create_run_folder, open_run_folder
from qemu.spec import MachineSpec, command
from qemu.verdict import describe_input
from vboot.errors import BootError, InputError, VbootError

_TOLD = ("run", "pid", "evolution", "qmp", "console", "accel", "command")
_KEPT = ("argv", "accel_reason", "start_ticks", "started_wall", "started_monotonic", "inputs")
"""What machine.json holds: what `VirtualMachine.describe` tells, and what it takes to find the machine again."""


def start(
    spec: MachineSpec,
    *,
    accel: Accel | None = None,
    run: Path | None = None,
    qemu: str = QEMU,
    detach: bool = False,
    timeout: float | None = None,
) -> VirtualMachine:
    """Start a machine and wait until QMP answers. The kernel kills it when the calling thread ends, unless `detach`.

    `accel` defaults to `select("auto")`, `run` to a new folder under build/run. Raises BootError (phase spawn),
    InputError for a run folder that is in use, ToolError when there is no QEMU. Nothing is left running when it raises.
    """
    accel = accel or select("auto", qemu=qemu)
    if run is not None and (run / "machine.json").exists() and _runs(open_run_folder(run)):
        raise InputError(f"a machine runs in {run}", remedy="stop it, or give another run folder")
    folder = create_run_folder(run)
    argv = command(spec, folder.endpoints, accel.name, qemu=qemu)
    folder.command.write_text(shlex.join(argv) + "\n")
    record: dict[str, Any] = {"started_wall": time.time(), "started_monotonic": time.monotonic(), "inputs": []}
    try:
        process = spawn(argv, log=folder.qemu_log, detach=detach)
    except VbootError:
        folder.remove_sockets()
        raise
    record |= _describe(process.pid, folder, accel, argv)
    machine = VirtualMachine(process, folder, record, detach=detach)
    try:
        # Hashed while QEMU starts: what is on disk later may be another build.
        record["inputs"] = [describe_input(path) for path in spec.inputs()]
        folder.write_json(folder.machine, record)
        machine.await_qmp(timeout=timeout)
    except BaseException as error:
        machine.abandon(error)
        raise
    return machine


def attach(run: Path) -> VirtualMachine:
    """The machine that was started with `run` and runs still; leaving its context lets go of it.

    Raises InputError when `run` is no run folder, BootError when its machine has ended.
    """
    folder = open_run_folder(run)
    process, record = _find(folder)
    if process is None:
        raise BootError(
            f"the machine of {run} has ended", phase="command", artefacts=folder.path, remedy=f"see {folder.path}"
        )
    return VirtualMachine(process, folder, record, attached=True)


def _describe(pid: int, folder: RunFolder, accel: Accel, argv: list[str]) -> dict[str, Any]:
    """The content of machine.json: what `VirtualMachine.describe` tells, and what makes the process recognisable."""
    return {
        "run": str(folder.path),
        "pid": pid,
        "evolution": str(folder.endpoints.evolution),
        "qmp": str(folder.endpoints.qmp),
        "console": str(folder.console),
        "accel": accel.name,
        "command": shlex.join(argv),
        "argv": argv,
        "accel_reason": accel.reason,
        "start_ticks": start_ticks(pid),
    }


def _find(folder: RunFolder) -> tuple[Process | None, dict[str, Any]]:
    try:
        record = json.loads(folder.machine.read_bytes())
        missing = {*_TOLD, *_KEPT} - record.keys()
        if missing:
            raise KeyError(", ".join(sorted(missing)))
        pid, started, marker = int(record["pid"]), int(record["start_ticks"]), str(record["qmp"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder.machine} is damaged ({error})", remedy="end QEMU by its process id") from error
    return reopen(pid, started=started, marker=marker), record


def _runs(folder: RunFolder) -> bool:
    process, _ = _find(folder)
    if process is not None:
        process.forget()
    return process is not None
