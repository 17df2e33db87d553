"""Machines whose power can be cut: in QEMU, or a process that listens; each with its state in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from builder.executable import executable_path
from qemu.accel import Accel
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.process import Process, spawn
from qemu.spec import Disk, MachineSpec
from qemu.state_file import STATE_SERIAL
from tests.torture.cut_line import PATIENCE_S
from tests.torture.cut_snapshot import APPEND, goes_on, take
from vboot.errors import BootError
from vboot.port_files import port_socket

_APPEND = f"console=ttyS0 panic=-1 quiet no_timer_check vector_boot.energy=off vector_boot.fault=1 {APPEND}"
"""no_timer_check: on a busy host the timer may be late, and the kernel would panic because it does not find it."""
_TCG = Accel("tcg", "it can be cut anywhere")


class Body(Protocol):
    """A machine that can be started again and again on the same state file."""

    def start(self) -> Path:
        """Start it; its socket, which need not be there yet."""
        ...

    def second_socket(self) -> Path:
        """Where a second client may connect."""
        ...

    def alive(self) -> bool:
        """Whether its process runs."""
        ...

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        ...


@dataclass
class Listening:
    """`vector_boot --listen --state`, supervisor and worker."""

    folder: Path
    model: Path
    state: Path
    _process: Process | None = None

    def start(self) -> Path:
        """Start it."""
        socket = self.folder / "evolution.sock"
        socket.unlink(missing_ok=True)
        command = [str(executable_path()), "--listen", str(socket), "--tensors", str(self.model)]
        options = ["--state", str(self.state), "--energy", "off", "--fault"]
        self._process = spawn([*command, *options], log=self.folder / "machine.log")
        return socket

    def second_socket(self) -> Path:
        """The same as the first: it takes 16 clients."""
        return self.folder / "evolution.sock"

    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._process is not None and not self._process.wait(0)

    def kill(self) -> None:
        """Kill the process group."""
        if self._process is not None:
            assert self._process.kill()


@dataclass
class Booted:
    """An image in QEMU. `faults`: what QEMU's blkdebug does to the state disk; `log`: where blklogwrites logs to.

    Its first boot, and each `cold_every`th, is one from the firmware on (0: none is); the others go on from a snapshot,
    which is kept in `folder` for all machines there.
    """

    folder: Path
    image: Path
    state: Path
    faults: Mapping[str, Any] | None = None
    log: Path | None = None
    cold_every: int = 10
    boots: int = 0
    _machine: VirtualMachine | None = None

    def start(self) -> Path:
        """Start QEMU."""
        is_cold = self.cold_every > 0 and self.boots % self.cold_every == 0
        self.boots += 1
        spec = self._spec() if is_cold else goes_on(self._spec(), self._snapshot())
        self._machine = start(spec, accel=_TCG, run=self.folder / "run", timeout=PATIENCE_S)
        return self._machine.evolution

    def failed_calls(self, kind: str) -> int:
        """How many reads, writes or flushes of the state disk QEMU has refused."""
        assert self._machine is not None
        counted = {"read": "rd", "write": "wr", "flush": "flush"}[kind]
        disks = self._machine.qmp("query-blockstats")
        return sum(int(disk["stats"][f"failed_{counted}_operations"]) for disk in disks)

    def second_socket(self) -> Path:
        """That of port 1."""
        assert self._machine is not None
        return port_socket(self._machine.evolution, 1)

    def alive(self) -> bool:
        """Whether QEMU runs, and its guest has not died."""
        if self._machine is None:
            return False
        try:
            self._machine.check()
        except BootError:
            return False
        return True

    def kill(self) -> None:
        """Kill QEMU."""
        if self._machine is not None:
            self._machine.kill()

    def _snapshot(self) -> Path:
        path = self.folder / "snapshot"
        if not path.exists():
            plain = Booted(self.folder, self.image, self.state)  # the guest sees the same disk
            take(plain._spec(), path, accel=_TCG, run=self.folder / "taking")
        return path

    def _spec(self) -> MachineSpec:
        return MachineSpec(
            kernel=self.image / "vmlinuz",
            initramfs=self.image / "initramfs.cpio",
            append=_APPEND,
            disks=(Disk(self.image / "vector_boot.rts", "vb-rts", read_only=True),),
            memory_mib=256,
            cpus=1,
            extra=self._state_disk(),
        )

    def _state_disk(self) -> tuple[str, ...]:
        file: dict[str, Any] = {"driver": "file", "filename": os.fspath(self.state.absolute())}
        if self.faults is not None:
            file = {"driver": "blkdebug", "image": file, **self.faults}
        if self.log is not None:
            log = {"driver": "file", "filename": os.fspath(self.log.absolute())}
            file = {"driver": "blklogwrites", "file": file, "log": log, "log-append": False}
        node = {"driver": "raw", "node-name": "state", "file": file}
        device = f"virtio-blk-pci,drive=state,serial={STATE_SERIAL},write-cache=on,werror=report,rerror=report"
        return ("-blockdev", json.dumps(node), "-device", device)


def failing_call(kind: str, number: int, *, once: bool) -> dict[str, Any]:
    """Options of blkdebug: the read, write or flush of this number, from 1, fails, and unless `once` all later ones."""
    event = {"read": "read_aio", "write": "write_aio", "flush": "flush_to_disk"}[kind]
    states = [{"event": event, "state": at, "new_state": at + 1} for at in range(1, number)]
    last = {"event": event, "iotype": kind, "state": number, "errno": 5, "once": once}
    return ({"set-state": states} if states else {}) | {"inject-error": [last]}
