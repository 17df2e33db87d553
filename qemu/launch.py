"""Starting a machine, and finding one again that was started before.

    with start(spec, accel=select("auto")) as machine:
        machine.wait_for_console("Entering Heartbeat Loop")
        machine.powerdown()
        machine.wait_exit()

It then belongs to a `VirtualMachine`, whose context ends it whatever happens.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from qemu import registry
from qemu.accel import QEMU, Accel, select
from qemu.ending import ending
from qemu.firmware import quick_rom
from qemu.machine import VirtualMachine
from qemu.private_files import with_private_files
from qemu.process import Process, boot_id, reopen, spawn, start_ticks
from qemu.run_folder import RunFolder, create_run_folder, listens, open_run_folder
from qemu.spec import MachineSpec, command
from qemu.state_file import STATE_SERIAL
from qemu.verdict import describe_input
from vboot.errors import BootError, InputError, VbootError
from vboot.files import named_errors
from vboot.port_files import lock_file
from vboot.text import path_json, path_text, shell_join

_TOLD = ("run", "pid", "evolution", "qmp", "console", "accel", "command")
_KEPT = ("accel_reason", "boot_id", "start_ticks", "started_wall", "started_monotonic", "inputs")
"""The members of machine.json: those of `VirtualMachine.describe`, and those that find the machine again."""


class EndedMachineError(BootError):
    """The machine of a run folder has ended. `how`: in words."""

    def __init__(self, run: Path, how: str, *, shown: Path) -> None:
        self.how = how
        what = f"the machine of {path_text(shown)} has ended: {how}"
        super().__init__(what, phase="command", artefacts=run, remedy=f"see {path_text(run)}")


class UnseenMachineError(BootError):
    """A machine answers at its sockets, but its process cannot be found from here."""


def start(
    spec: MachineSpec,
    *,
    accel: Accel | None = None,
    run: Path | None = None,
    qemu: str = QEMU,
    detach: bool = False,
    timeout: float | None = None,
    model: str = "",
) -> VirtualMachine:
    """Start a machine and wait until QMP answers. The kernel kills it when the calling thread ends, unless `detach`.

    `accel` defaults to `select("auto")` for the kernel of `spec`, `run` to a new folder under build/run. `model` is
    what it runs, in words, for those who look for the machine later. Raises BootError (phase spawn), InputError for a
    run folder that is in use, ToolError when there is no QEMU. Nothing is left running when it raises.
    """
    accel = accel or select("auto", kernel=spec.kernel, qemu=qemu)
    if run is not None and (run / "machine.json").exists() and is_running(open_run_folder(run)):
        raise InputError(f"a machine runs in {path_text(run)}", remedy="stop it, or give another run folder")
    folder = create_run_folder(run)
    spec = _with_rom(spec)
    booted_from, boot_disk = spec.inputs(), spec.boot_disk
    spec = with_private_files(spec, folder)
    argv = command(spec, folder.endpoints, accel.name, qemu=qemu)
    with named_errors(folder.command):
        folder.command.write_bytes(os.fsencode(shell_join(argv)) + b"\n")
        # It tells clients that a port serves one of them at a time, also where only one port is left.
        lock_file(folder.endpoints.evolution).touch(mode=0o600)
    record: dict[str, Any] = {"started_wall": time.time(), "started_monotonic": time.monotonic(), "inputs": []}
    try:
        process = spawn(argv, log=folder.qemu_log, detach=detach)
    except VbootError:
        folder.remove_sockets()
        raise
    record |= _describe(process.pid, folder, accel, argv) | {"memory_mib": spec.memory_mib, "model": model}
    if state := next((disk.path for disk in spec.disks if disk.serial == STATE_SERIAL), None):
        record["state"] = path_json(state.absolute())
    if boot_disk is not None:
        record["disk"] = path_json(boot_disk.absolute())
    machine = VirtualMachine(process, folder, record, detach=detach)
    try:
        # Hashed while QEMU starts: what is on disk later may be another build.
        record["inputs"] = [describe_input(path) for path in booted_from]
        folder.write_json(folder.machine, record)
        registry.note(record)
        machine.await_qmp(timeout=timeout)
    except BaseException as error:
        machine.abandon(error)
        raise
    return machine


def _with_rom(spec: MachineSpec) -> MachineSpec:
    """A machine that boots a kernel directly has the firmware that does no more than this, where QEMU has one."""
    return replace(spec, firmware=quick_rom()) if spec.kernel is not None and spec.firmware is None else spec


def attach(run: Path) -> VirtualMachine:
    """The machine that was started with `run` and runs still; leaving its context lets go of it.

    Raises InputError when `run` is no run folder, EndedMachineError, UnseenMachineError when it
    answers but its process is not found: it belongs to another PID namespace, such as a container's.
    """
    folder = open_run_folder(run)
    process, record = _find(folder)
    if process is None and listens(folder):
        what = f"a machine runs in {path_text(run)}, but its process {record['pid']} is not to be seen from here"
        where = f"use its socket {path_text(folder.endpoints.evolution)}, or end it where it was started"
        raise UnseenMachineError(what, phase="command", artefacts=folder.path, remedy=where)
    if process is None:
        raise EndedMachineError(folder.path, ending(folder), shown=run)
    return VirtualMachine(process, folder, record, attached=True)


def _describe(pid: int, folder: RunFolder, accel: Accel, argv: list[str]) -> dict[str, Any]:
    """The content of machine.json: the result of `VirtualMachine.describe`, and the identity of the process."""
    return {
        "run": path_json(folder.path),
        "pid": pid,
        "evolution": path_json(folder.endpoints.evolution),
        "qmp": path_json(folder.endpoints.qmp),
        "console": path_json(folder.console),
        "accel": accel.name,
        "command": shell_join(argv),
        "accel_reason": accel.detail or accel.reason,
        "boot_id": boot_id(),
        "start_ticks": start_ticks(pid),
    }


def _find(folder: RunFolder) -> tuple[Process | None, dict[str, Any]]:
    try:
        record = json.loads(folder.machine.read_bytes())
        missing = {*_TOLD, *_KEPT} - record.keys()
        if missing:
            raise KeyError(", ".join(sorted(missing)))
        pid, started = int(record["pid"]), int(record["start_ticks"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path_text(folder.machine)} is damaged ({error})"
        raise InputError(what, remedy="end QEMU by its process id") from error
    return reopen(pid, started=started, boot=str(record["boot_id"])), record


def is_running(folder: RunFolder) -> bool:
    """Whether the machine of this run folder runs. Raises InputError if its machine.json is damaged."""
    process, _ = _find(folder)
    if process is not None:
        process.forget()
    return process is not None or listens(folder)
