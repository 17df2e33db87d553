"""The disks of this host, from /sys and /proc: what they are, and what uses them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import InputError
from vboot.text import path_text

SYS = Path("/sys")
PROC = Path("/proc")
_SECTOR = 512
_SYSTEM_FOLDERS = frozenset({"/", "/boot", "/boot/efi", "/usr", "/var", "/etc"})
_TRANSPORTS = {"usb": r"usb\d+", "nvme": r"nvme\d+", "mmc": r"mmc\d+", "ata": r"ata\d+", "virtio": r"virtio\d+"}
"""A part of the path of a device in /sys tells how it is connected; a disk in a USB case is on USB."""
_NO_DISKS = ("ram", "zram", "dm-", "md", "sr", "fd")


@dataclass(frozen=True)
class BlockDevice:
    """A whole disk. `transport` is usb, nvme, ata, mmc, virtio or "". `used_by` says what uses it or a part of it.

    `system`: the running system is on it.
    """

    path: Path
    model: str
    serial: str
    bytes: int
    removable: bool
    read_only: bool
    transport: str
    used_by: tuple[str, ...]
    system: bool

    @property
    def title(self) -> str:
        """Its model, for people."""
        return self.model or "unknown model"


def list_disks(*, sys: Path = SYS, proc: Path = PROC) -> list[BlockDevice]:
    """Every disk of the host, by name; loop devices without a file, RAM disks and optical drives are left out."""
    users = _users(sys, proc)
    found = []
    for folder in sorted((sys / "block").iterdir()) if (sys / "block").is_dir() else ():
        disk = _disk(folder, users)
        if disk.bytes and not folder.name.startswith(_NO_DISKS):
            found.append(disk)
    return found


def find_disk(path: Path, *, sys: Path = SYS, proc: Path = PROC) -> BlockDevice:
    """The disk whose device is at `path`, or where a link at `path` leads. Raises InputError if it is no whole disk."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path_text(path)}: {(error.strerror or str(error)).lower()}") from error
    if not stat.S_ISBLK(status.st_mode):
        what = "a file" if stat.S_ISREG(status.st_mode) else "no block device"
        remedy = "copy the image to a file with cp" if what == "a file" else "`vboot flash --list` shows the disks"
        raise InputError(f"{path_text(path)} is {what}, expected a disk such as /dev/sdb", remedy=remedy)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    folder = (sys / "dev" / "block" / number).resolve()
    if (folder / "partition").exists():
        whole = f"/dev/{folder.parent.name}"
        raise InputError(f"{path_text(path)} is a partition", remedy=f"give the whole disk, {whole}")
    if not folder.is_dir():
        raise InputError(f"{path_text(path)} is not in /sys, so what it is cannot be found out")
    return _disk(folder, _users(sys, proc))


def _disk(folder: Path, users: dict[str, list[str]]) -> BlockDevice:
    """A disk by its folder in /sys/block. `users` are told for each device number."""
    numbers = [
        _text(folder / "dev"),
        *(_text(part / "dev") for part in folder.iterdir() if (part / "partition").exists()),
    ]
    holders = [
        f"{holder.name} is on it" for part in (folder, *folder.iterdir()) for holder in _entries(part / "holders")
    ]
    used = [user for number in numbers for user in users.get(number, ())] + holders
    places = {user.removeprefix("mounted at ") for user in used}
    return BlockDevice(
        path=Path("/dev") / folder.name,
        model=_model(folder),
        serial=_text(folder / "device/serial") or _text(folder / "serial"),
        bytes=int(_text(folder / "size") or 0) * _SECTOR,
        removable=_text(folder / "removable") == "1" or _transport(folder) in {"usb", "mmc"},
        read_only=_text(folder / "ro") == "1",
        transport=_transport(folder),
        used_by=tuple(used),
        system=bool(places & _SYSTEM_FOLDERS),
    )


def _transport(folder: Path) -> str:
    """How the disk is connected, by the path of its device."""
    parts = folder.resolve().parts
    for name, pattern in _TRANSPORTS.items():
        if any(re.fullmatch(pattern, part) for part in parts):
            return name
    return ""


def _model(folder: Path) -> str:
    """Vendor and model; of a loop device its file."""
    file = _text(folder / "loop/backing_file")
    named = " ".join(filter(None, (_text(folder / "device/vendor"), _text(folder / "device/model"))))
    return f"loop of {file}" if file else named


def _users(sys: Path, proc: Path) -> dict[str, list[str]]:
    """What uses the devices of the host, by their numbers ("8:1"): mounts and swap, through device mapper and RAID."""
    found: dict[str, list[str]] = {}
    for line in _lines(proc / "self/mountinfo"):
        fields = line.split(" ")
        if len(fields) > 4:
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            for number in _below(sys, fields[2]):
                found.setdefault(number, []).append(f"mounted at {place}")
    for line in _lines(proc / "swaps")[1:]:
        name = Path(line.split(" ")[0].split("\t")[0])
        number = _text(sys / "class/block" / name.name / "dev")
        for each in _below(sys, number):
            found.setdefault(each, []).append("used for swap")
    return found


def _below(sys: Path, number: str) -> Iterator[str]:
    """The number of a device and of those that it is made of."""
    if number:
        yield number
        for slave in _entries(sys / "dev/block" / number / "slaves"):
            yield from _below(sys, _text(slave / "dev"))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
