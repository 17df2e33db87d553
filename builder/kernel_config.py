"""Reads a kernel's `.config`, and checks it for the options that the appliance needs. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from initramfs.modules import MACHINE
from vboot.errors import InputError

_SET = re.compile(r"CONFIG_(\w+)=(.+)", re.ASCII)
_UNSET = re.compile(r"# CONFIG_(\w+) is not set", re.ASCII)


@dataclass(frozen=True)
class Requirement:
    """An option (without CONFIG_), its purpose, whether a module is enough, and whether the machine needs it."""

    option: str
    reason: str
    module_is_enough: bool = False
    required: bool = True


@dataclass(frozen=True)
class OptionMismatch:
    """An option with another value than required, and its value (`n` when absent)."""

    requirement: Requirement
    value: str

    def __str__(self) -> str:
        """One line: `CONFIG_PSI is n, expected y (for CPU pressure in hw.mmio)`."""
        expected = "y or m" if self.requirement.module_is_enough else "y"
        return f"CONFIG_{self.requirement.option} is {self.value}, expected {expected} (for {self.requirement.reason})"


def _required(option: str, reason: str) -> Requirement:
    return Requirement(option, reason)


def _optional(option: str, reason: str) -> Requirement:
    return Requirement(option, reason, required=False)


REQUIREMENTS: tuple[Requirement, ...] = (
    _required("64BIT", "the x86-64 executable"),
    _required("BLK_DEV_INITRD", "unpacking the initramfs with /init"),
    _required("BINFMT_ELF", "running /init"),
    _required("PROC_FS", "/proc, where PID 1 sees its own executable and the worker"),
    _required("SYSFS", "/sys, where the evolution port and the disks are found by name"),
    _required("DEVTMPFS", "/dev, where device nodes appear as drivers find devices"),
    _required("TMPFS", "the root file system"),
    _required("SHMEM", "memory shared by PID 1 and the worker"),
    _required("MEMFD_CREATE", "the journal without a state device, and the hw.mmio page"),
    _required("BLOCK", "disks"),
    _required("PCI", "virtio devices"),
    _required("TTY", "the console"),
    _required("PRINTK", "kernel messages on the console"),
    _required("SERIAL_8250", "the console"),
    _required("SERIAL_8250_CONSOLE", "the console, console=ttyS0"),
    _required("MULTIUSER", "the worker's own user id; without it the worker is root"),
    _required("SECCOMP_FILTER", "the worker's system call filter"),
    _required("FUTEX", "locks of Rust's standard library"),
    _required("EPOLL", "waiting for the evolution port"),
    _required("SIGNALFD", "the signals of PID 1"),
    _required("TIMERFD", "the heartbeat"),
    _required("EVENTFD", "waking the worker"),
    _required("POSIX_TIMERS", "clocks"),
    _required("ADVISE_SYSCALLS", "madvise on the weights"),
    _required("ACPI", "powering off"),
    *[Requirement(driver.option, driver.reason, module_is_enough=True, required=driver.required) for driver in MACHINE],
    _optional("SMP", "more than one processor"),
    _optional("HIGH_RES_TIMERS", "heartbeats more precise than a timer tick"),
    _optional("PSI", "CPU pressure in hw.mmio"),
    _optional("SECURITY_LANDLOCK", "a second restriction of the worker's access to files"),
    _optional("EFI_STUB", "flashing: UEFI firmware can start the kernel"),
    _optional("EFI_PARTITION", "flashing: the partitions of a GPT disk"),
)
"""What the appliance requires of a kernel. Drivers may be modules: the initramfs loads them."""


def parse(text: str) -> dict[str, str]:
    """The options set in a `.config` file, by name without CONFIG_: `y`, `m`, a number, or a text without its quotes.

    Raises:
        InputError: a line that is neither an assignment nor a comment, or no option at all.
    """
    config: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _SET.fullmatch(line.rstrip()):
            config[match[1]] = match[2][1:-1] if len(match[2]) > 1 and match[2][0] == match[2][-1] == '"' else match[2]
        elif match := _UNSET.fullmatch(line.rstrip()):
            config.pop(match[1], None)
        elif line.strip() and not line.startswith("#"):
            raise InputError(f"kernel configuration, line {number}: expected CONFIG_NAME=VALUE, found {line[:60]!r}")
    if not config:
        raise InputError("kernel configuration: no option is set", remedy="give the .config the kernel was built with")
    return config


def check(config: Mapping[str, str]) -> list[OptionMismatch]:
    """Every option with another value than required, in the order of `REQUIREMENTS`."""
    return [
        OptionMismatch(requirement, config.get(requirement.option, "n"))
        for requirement in REQUIREMENTS
        if config.get(requirement.option, "n") not in ({"y", "m"} if requirement.module_is_enough else {"y"})
    ]


def require(config: Mapping[str, str]) -> None:
    """Refuse a kernel that cannot run the appliance.

    Raises:
        InputError: names the first required option that is not set, and the number of them.
    """
    missing = [mismatch for mismatch in check(config) if mismatch.requirement.required]
    if missing:
        more = f" ({len(missing)} required options are missing)" if len(missing) > 1 else ""
        raise InputError(f"this kernel cannot run the appliance: {missing[0]}{more}", remedy="choose another kernel")
