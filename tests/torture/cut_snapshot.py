"""A guest that is kept as its init starts, so that each boot of a campaign goes on from there: a third of its time.

The guest has no driver for its disks by then: it loads those, finds the state device and recovers it after the snapshot
as in any other boot. Its kernel has no random numbers yet either, so no two boots draw the same.
"""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path

from qemu.accel import Accel
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.torture.cut_line import PATIENCE_S

APPEND = "random.trust_cpu=off"
"""Belongs on the kernel's command line. Else the kernel takes random numbers from the processor before the snapshot."""
_INIT = r"vector_boot: phase=start"
_READ_BY_FIRMWARE = 1


class SnapshotError(Exception):
    """No snapshot could be taken: QEMU refused, or the guest was seen too late."""


def take(spec: MachineSpec, path: Path, *, accel: Accel, run: Path) -> None:
    """Boot the machine of `spec`, and store it in `path` as its init starts. Raises SnapshotError, BootError."""
    # The one that goes on from it shall not be paused.
    extra = (*spec.extra, "-global", "migration.store-global-state=off")
    machine = start(replace(spec, extra=extra), accel=accel, run=run, timeout=PATIENCE_S)
    try:
        machine.wait_for_console(_INIT, timeout=PATIENCE_S)
        machine.qmp("stop")
        _check_untouched(machine)
        machine.qmp("migrate", uri=f"exec:cat >{shlex.quote(os.fspath(path.absolute()))}")
        until = time.monotonic() + PATIENCE_S
        while (status := machine.qmp("query-migrate")["status"]) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > until:
                raise SnapshotError(f"QEMU's migration into {path} is {status!r}, expected 'completed'")
            time.sleep(0.02)
    finally:
        machine.kill()


def goes_on(spec: MachineSpec, path: Path) -> MachineSpec:
    """The machine that goes on from a snapshot of `spec`."""
    incoming = ("-incoming", f"exec:cat {shlex.quote(os.fspath(path.absolute()))}")
    return replace(spec, extra=(*spec.extra, *incoming))


def _check_untouched(machine: VirtualMachine) -> None:
    for disk in machine.qmp("query-blockstats"):
        done = disk["stats"]
        if done["rd_operations"] > _READ_BY_FIRMWARE or done["wr_operations"]:
            raise SnapshotError(f"the guest has used a disk before it was stopped: {done}")
