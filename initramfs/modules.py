"""Which kernel modules the machine loads, and in which order.

What a module needs is read from its own `.modinfo` section (`depends=`, written by the kernel's build): Debian's
packages carry no modules.dep, which depmod makes only on installation. Code that is built into the kernel is not
listed there. Loading a module before one it depends on fails with ENOENT, so dependencies come first.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from elftools.elf.elffile import ELFFile

from vboot.errors import InputError

Part = Literal["early", "verity", "late"]
PARTS: tuple[Part, ...] = ("early", "verity", "late")


@dataclass(frozen=True)
class Wanted:
    """A driver: its module, the configuration option that builds it (without CONFIG_), and its purpose.

    `part` says when it is loaded: before the first heartbeat, before it if the image has a hash tree, or after it.
    """

    module: str
    option: str
    required: bool
    reason: str
    part: Part = "early"


@dataclass(frozen=True)
class Module:
    """A kernel module as the archive carries it: `data` is the uncompressed .ko file."""

    name: str
    data: bytes
    part: Part = "early"

    @property
    def archive_path(self) -> str:
        """Its path relative to the root of the archive."""
        return f"lib/modules/{self.name}.ko"


MACHINE: tuple[Wanted, ...] = (
    Wanted("virtio_pci", "VIRTIO_PCI", True, "the bus of every virtio device"),
    Wanted("virtio_blk", "VIRTIO_BLK", True, "the disks with the model and the state"),
    Wanted("virtio_console", "VIRTIO_CONSOLE", True, "the evolution port"),
    Wanted("virtio_rng", "HW_RANDOM_VIRTIO", True, "entropy; without it getrandom may block at boot"),
    Wanted("virtio_mmio", "VIRTIO_MMIO", False, "virtio devices of machines without PCI (microvm)"),
    # The real timer before the emulated one: the first to register becomes /dev/watchdog.
    Wanted("i6300esb", "I6300ESB_WDT", False, "a hardware watchdog, which works when the kernel hangs", part="late"),
    Wanted("softdog", "SOFT_WATCHDOG", False, "a watchdog for machines without a hardware one", part="late"),
    Wanted("button", "ACPI_BUTTON", False, "the power button", part="late"),
    Wanted("evdev", "INPUT_EVDEV", False, "reading the power button", part="late"),
    Wanted("dm_verity", "DM_VERITY", False, "the hash tree of an image, by which each block is checked", part="verity"),
)
"""What the appliance uses under QEMU and other virtio machines."""

PHYSICAL_DISKS: tuple[Wanted, ...] = (
    Wanted("nvme", "BLK_DEV_NVME", False, "NVMe disks"),
    Wanted("ahci", "SATA_AHCI", False, "SATA disks"),
    Wanted("sd_mod", "BLK_DEV_SD", False, "SATA and USB disks"),
    Wanted("xhci_pci", "USB_XHCI_PCI", False, "USB ports"),
    Wanted("usb_storage", "USB_STORAGE", False, "USB disks"),
)
"""What a flashed disk also needs on hardware; not loaded elsewhere because probing SATA ports takes boot time."""


def module_name(path: str) -> str:
    """The module's name from its file's: no folder, no `.ko` or compression, `-` as `_` (as the kernel does)."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def module_info(module: Module) -> dict[str, str]:
    """The `key=value` texts of a module's `.modinfo` section; of a repeated key, the first.

    Raises:
        InputError: it is not an ELF file with such a section.
    """
    try:
        section = ELFFile(io.BytesIO(module.data)).get_section_by_name(".modinfo")
        texts = section.data().decode("utf-8", "replace").split("\0") if section is not None else []
    except Exception as error:  # pyelftools raises many types of exceptions
        raise InputError(f"kernel module {module.name}: not a valid ELF file ({error})") from error
    if not texts:
        raise InputError(f"kernel module {module.name}: it has no .modinfo section")
    info: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        info.setdefault(key, value)
    return info


def select(
    wanted: Sequence[Wanted],
    *,
    release: str,
    config: Mapping[str, str],
    available: Collection[str],
    read: Callable[[str], bytes],
) -> list[Module]:
    """The modules to put in the archive, each after those it depends on.

    Args:
        wanted: drivers, in the order in which they should be loaded, part by part.
        release: the kernel's release (`uname -r`), which its modules must be built for.
        config: the kernel's configuration, `{"VIRTIO_BLK": "m"}`; `y` means built in, so there is nothing to load.
        available: names of the modules whose files exist.
        read: returns the uncompressed .ko file of an available module.

    Raises:
        InputError: a required driver is neither built in nor available, a dependency is missing, a module is damaged or
            belongs to another kernel.
    """
    loaded: dict[str, Module] = {}

    def load(name: str, needed_by: tuple[str, ...], *, part: Part) -> None:
        if name in loaded:
            return
        if name in needed_by:
            raise InputError(f"kernel modules depend on each other in a circle: {' -> '.join([*needed_by, name])}")
        if name not in available:
            raise InputError(f"kernel module {name} is missing, and {needed_by[-1]} needs it", remedy=_REMEDY)
        module = Module(name, read(name), part)
        info = module_info(module)
        _check_release(name, built_for=info.get("vermagic", "").partition(" ")[0], release=release)
        for dependency in filter(None, info.get("depends", "").split(",")):
            load(module_name(dependency), (*needed_by, name), part=part)
        loaded[name] = module

    for driver in sorted(wanted, key=lambda driver: PARTS.index(driver.part)):
        if config.get(driver.option) == "y":
            continue
        if driver.module in available:
            load(driver.module, (), part=driver.part)
        elif driver.required:
            raise _missing(driver, config.get(driver.option, "n"))
    return list(loaded.values())


_REMEDY = "give the lib/modules/RELEASE folder that belongs to this kernel"


def _check_release(name: str, *, built_for: str, release: str) -> None:
    """Refuse at build time what the kernel would refuse at boot: a module built for another kernel."""
    if built_for != release:
        raise InputError(f"kernel module {name} is built for Linux {built_for!r}, not {release!r}", remedy=_REMEDY)


def _missing(driver: Wanted, value: str) -> InputError:
    what = f"the kernel has no {driver.module} driver ({driver.reason})"
    if value == "m":
        return InputError(f"{what}: CONFIG_{driver.option}=m but its module file does not exist", remedy=_REMEDY)
    return InputError(f"{what}: CONFIG_{driver.option} is not set", remedy="choose a kernel that has it")
