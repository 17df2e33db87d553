"""What a machine is made of, and the QEMU command line that makes it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qemu.accel import QEMU, AccelName
from vboot.errors import InputError
from vboot.port_files import PORTS, port_socket

EVOLUTION_PORT = "org.vectorland.evolution"
"""The guest finds the evolution ports under this name, a dot and the number of the port."""
PORT_LABEL = "evolution"
"""QEMU knows the socket of port 0 by this name, and those of the others by it and their number."""

DEFAULT_CPU = "max"
"""The processor model with every feature that the accelerator offers."""
_EMULATED_CPU = "max,-erms,-fsrm"
"""The same where it is emulated, without the promise that a repeated move of bytes is fast: QEMU moves them one by one,
and the guest's kernel would copy and clear all of its memory in this way."""
_DURABLE = "cache.direct=off,cache.no-flush=off"
"""A write may wait in the host's page cache, a flush of the guest is an fdatasync of the file."""
_ERRORS_TO_GUEST = "write-cache=on,werror=report,rerror=report"
"""By default QEMU would stop the whole machine, its heartbeat too, when the host's disk is full."""
_SECURE_FLASH = ("-global", "driver=cfi.pflash01,property=secure,value=on")
WATCHDOG_ACTIONS = ("reset", "shutdown", "poweroff", "pause", "none", "inject-nmi", "debug")


@dataclass(frozen=True)
class Disk:
    """One virtio-blk disk. The guest finds it by `serial` (at most 20 bytes; "" for none).

    With `overlay` what the machine writes goes to a file in its run folder, and the file at `path` stays as it is.
    """

    path: Path
    serial: str
    read_only: bool
    format: Literal["raw", "qcow2"] = "raw"
    overlay: bool = False

    def __post_init__(self) -> None:
        if len(self.serial.encode()) > 20:
            raise InputError(f"disk serial {self.serial!r} is longer than the 20 bytes virtio-blk has")


@dataclass(frozen=True)
class MachineSpec:
    """A machine: what it boots (`kernel` directly, or a disk through `firmware`), its disks and its size.

    `cpu` is one of QEMU's processor models, with features if any: "Haswell,-avx2". `firmware_vars` is this machine's
    own, writable copy of the firmware's variables; with it `firmware` is flash, without it a plain ROM. In place of a
    copy `firmware_template` may be given, of which the run folder gets one. `watchdog` adds an i6300esb and is what
    QEMU does when it fires. A machine that `reboots` is not ended by that. With `secure_boot` the firmware keeps its
    variables out of reach of the system, as Secure Boot needs it. `extra` is raw QEMU arguments.
    """

    kernel: Path | None = None
    initramfs: Path | None = None
    append: str = ""
    disks: tuple[Disk, ...] = ()
    memory_mib: int = 512
    cpus: int = 2
    cpu: str = DEFAULT_CPU
    firmware: Path | None = None
    firmware_vars: Path | None = None
    firmware_template: Path | None = None
    watchdog: str | None = None
    reboots: bool = False
    secure_boot: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kernel is None and self.firmware is None:
            raise InputError("the machine has neither a kernel nor firmware to boot", remedy="name one of them")
        if self.kernel is None and (self.initramfs is not None or self.append):
            raise InputError("an initramfs and a kernel command line need a kernel", remedy="name the kernel")
        if (self.firmware_vars or self.firmware_template) and self.firmware is None:
            raise InputError("firmware variables need their firmware", remedy="name the firmware")
        if self.memory_mib < 1 or self.cpus < 1:
            raise InputError(f"a machine cannot have {self.memory_mib} MiB of memory and {self.cpus} CPUs")
        if self.watchdog is not None and self.watchdog not in WATCHDOG_ACTIONS:
            known = ", ".join(WATCHDOG_ACTIONS)
            raise InputError(f"watchdog action {self.watchdog!r} is unknown", remedy=f"use one of {known}")

    @property
    def boot_disk(self) -> Path | None:
        """The disk that firmware boots, as it was given; None where the kernel is."""
        return self.disks[0].path if self.kernel is None and self.disks else None

    def inputs(self) -> tuple[Path, ...]:
        """Every file the machine is made from: not the disks that it writes to."""
        named = (self.kernel, self.initramfs, self.firmware, self.firmware_vars or self.firmware_template)
        disks = tuple(disk.path for disk in self.disks if disk.read_only or disk.overlay)
        return tuple(path for path in named if path is not None) + disks


@dataclass(frozen=True)
class Endpoints:
    """Where a machine meets the host: the console's log file, and the Unix sockets of evolution port 0 and of QMP."""

    console: Path
    evolution: Path
    qmp: Path


def command(spec: MachineSpec, paths: Endpoints, accel: AccelName, *, qemu: str = QEMU) -> list[str]:
    """The argument vector that runs `spec`. All paths come out absolute, so it can be run again from anywhere."""
    cpu = _EMULATED_CPU if spec.cpu == DEFAULT_CPU and accel == "tcg" else spec.cpu
    machine = ["-machine", "q35,smm=on", *_SECURE_FLASH] if spec.secure_boot else ["-machine", "q35"]
    argv = [qemu, "-name", "vector_boot", *machine, "-accel", accel, "-cpu", cpu]
    argv += ["-m", f"{spec.memory_mib}M", "-smp", str(spec.cpus)]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", *([] if spec.reboots else ["-no-reboot"])]
    return [*argv, *_boot(spec), *_ports(paths), *_disks(spec), *_guards(spec), *spec.extra]


def _boot(spec: MachineSpec) -> list[str]:
    argv: list[str] = []
    if spec.firmware is not None and spec.firmware_vars is not None:
        for unit, path, read_only in ((0, spec.firmware, "on"), (1, spec.firmware_vars, "off")):
            argv += ["-drive", f"if=pflash,unit={unit},format=raw,readonly={read_only},file={_option(path)}"]
    elif spec.firmware is not None:
        argv += ["-bios", str(spec.firmware.absolute())]
    if spec.kernel is not None:
        argv += ["-kernel", str(spec.kernel.absolute())]
        if spec.initramfs is not None:
            argv += ["-initrd", str(spec.initramfs.absolute())]
        if spec.append:
            argv += ["-append", spec.append]
    return argv


def _ports(paths: Endpoints) -> list[str]:
    # The file is opened before the CPU starts, so it holds the console from its first byte. QMP comes last: when it
    # answers, all others exist.
    argv = ["-chardev", f"file,id=console,path={_option(paths.console)}", "-serial", "chardev:console"]
    # Number 0 on the bus belongs to a console and is refused.
    argv += ["-device", f"virtio-serial-pci,id=ports,max_ports={PORTS + 1}"]
    # The guest sees the ports in this order: when it finds port 0, it has all others.
    for number in (*range(1, PORTS), 0):
        name = PORT_LABEL if number == 0 else f"{PORT_LABEL}{number}"
        path = _option(port_socket(paths.evolution, number))
        argv += ["-chardev", f"socket,id={name},path={path},server=on,wait=off", "-device"]
        argv += [f"virtserialport,bus=ports.0,nr={number + 1},chardev={name},name={EVOLUTION_PORT}.{number}"]
    argv += [
        "-chardev",
        f"socket,id=qmp,path={_option(paths.qmp)},server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
    ]
    return argv


def _disks(spec: MachineSpec) -> list[str]:
    argv: list[str] = []
    for number, disk in enumerate(spec.disks):
        node = f"disk{number}"
        read_only = "on" if disk.read_only else "off"
        # Not in JSON, where QEMU takes only UTF-8.
        storage = f"file.driver=file,file.filename={_option(disk.path)},file.auto-read-only=off"
        cache = "" if disk.read_only else f",{_DURABLE}"
        argv += ["-blockdev", f"driver={disk.format},node-name={node},read-only={read_only},{storage}{cache}"]
        serial = f",serial={disk.serial.replace(',', ',,')}" if disk.serial else ""
        errors = "" if disk.read_only else f",{_ERRORS_TO_GUEST}"
        argv += ["-device", f"virtio-blk-pci,drive={node}{serial}{errors}"]
    return argv


def _guards(spec: MachineSpec) -> list[str]:
    # A guest without entropy blocks in getrandom; a guest that panics reports it to QEMU (pvpanic).
    argv = ["-device", "virtio-rng-pci", "-device", "pvpanic-pci"]
    if spec.watchdog is not None:
        argv += ["-device", "i6300esb", "-action", f"watchdog={spec.watchdog}"]
    return argv


def _option(path: Path) -> str:
    """A path inside a comma-separated option: commas are doubled."""
    return str(path.absolute()).replace(",", ",,")
