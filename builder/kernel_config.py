"""A kernel's configuration: reading `.config`, and the options without which the appliance does not run. Pure."""

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
    """An option (no CONFIG_), what it is for, whether a module will do, and whether the machine runs without."""

    option: str
    reason: str
    module_will_do: bool = False
    required: bool = True


@dataclass(frozen=True)
class Finding:
    """An option that is not as it should be, and its value (`n` when absent)."""

    requirement: Requirement
    value: str

    def __str__(self) -> str:
        """One line: `CONFIG_PSI is n, expected y (for CPU pressure in hw.mmio)`."""
        expected = "y or m" if self.requirement.module_will_do else "y"
        return f"CONFIG_{self.requirement.option} is {self.value}, expected {expected} (for {self.requirement.reason})"


def _needs(option: str, reason: str) -> Requirement:
    return Requirement(option, reason)


def _gains(option: str, reason: str) -> Requirement:
    return Requirement(option, reason, required=False)


REQUIREMENTS: tuple[Requirement, ...] = (
    _needs("64BIT", "the x86-64 executable"),
    _needs("BLK_DEV_INITRD", "unpacking the initramfs with /init"),
    _needs("BINFMT_ELF", "running /init"),
    _needs("PROC_FS", "/proc, where PID 1 sees its own executable and the worker"),
    _needs("SYSFS", "/sys, where the evolution port and the disks are found by name"),
    _needs("DEVTMPFS", "/dev, where device nodes appear as drivers find devices"),
    _needs("TMPFS", "the root file system"),
    _needs("SHMEM", "memory shared by PID 1 and the worker"),
    _needs("MEMFD_CREATE", "the journal without a state device, and the hw.mmio page"),
    _needs("BLOCK", "disks"),
    _needs("PCI", "virtio devices"),
    _needs("TTY", "the console"),
    _needs("PRINTK", "kernel messages on the console"),
    _needs("SERIAL_8250", "the console"),
    _needs("SERIAL_8250_CONSOLE", "the console, console=ttyS0"),
    _needs("MULTIUSER", "the worker's own user id; without it the worker is root"),
    _needs("SECCOMP_FILTER", "the worker's system call filter"),
    _needs("FUTEX", "locks of Rust's standard library"),
    _needs("EPOLL", "waiting for the evolution port"),
    _needs("SIGNALFD", "the signals of PID 1"),
    _needs("TIMERFD", "the heartbeat"),
    _needs("EVENTFD", "waking the worker"),
    _needs("POSIX_TIMERS", "clocks"),
    _needs("ADVISE_SYSCALLS", "madvise on the weights"),
    _needs("ACPI", "powering off"),
    *[Requirement(driver.option, driver.reason, module_will_do=True, required=driver.required) for driver in MACHINE],
    _gains("SMP", "more than one processor"),
    _gains("HIGH_RES_TIMERS", "heartbeats more punctual than a timer tick"),
    _gains("PSI", "CPU pressure in hw.mmio"),
    _gains("SECURITY_LANDLOCK", "a second wall between the worker and files"),
    _gains("EFI_STUB", "flashing: UEFI firmware starts such a kernel"),
    _gains("EFI_PARTITION", "flashing: the partitions of a GPT disk"),
)
"""What the appliance asks of a kernel; the drivers are those that the initramfs loads when they are modules."""


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


def check(config: Mapping[str, str]) -> list[Finding]:
    """Every option that is not as it should be, in the order of `REQUIREMENTS`."""
    return [
        Finding(requirement, config.get(requirement.option, "n"))
        for requirement in REQUIREMENTS
        if config.get(requirement.option, "n") not in ({"y", "m"} if requirement.module_will_do else {"y"})
    ]


def require(config: Mapping[str, str]) -> None:
    """Refuse a kernel that cannot run the appliance.

    Raises:
        InputError: names the first required option that is not set, and how many there are.
    """
    missing = [finding for finding in check(config) if finding.requirement.required]
    if missing:
        more = f" ({len(missing)} required options are missing)" if len(missing) > 1 else ""
        raise InputError(f"this kernel cannot run the appliance: {missing[0]}{more}", remedy="choose another kernel")
