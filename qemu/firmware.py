"""Finds firmware for the machine: UEFI by QEMU's descriptors (docs/interop/firmware.json), else at known paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vboot.errors import InputError

DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
"""A file in an earlier folder replaces one of the same name in a later one."""
_MACHINE = "pc-q35-7.2"
_UNWANTED = frozenset({"secure-boot", "requires-smm", "enrolled-keys", "amd-sev-es", "amd-sev-snp", "intel-tdx"})
_KNOWN = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)

_QUICK = ("/usr/share/qemu/qboot.rom", "/usr/share/qemu-kvm/qboot.rom", "/usr/local/share/qemu/qboot.rom")


@dataclass(frozen=True)
class Firmware:
    """`code` is the firmware itself, `variables` the template of its variables, of which each machine has a copy."""

    code: Path
    variables: Path


def find_firmware(descriptors: Sequence[Path] = DESCRIPTORS, known: Sequence[tuple[str, str]] = _KNOWN) -> Firmware:
    """The first firmware for x86-64 that asks for no signatures. Raises InputError if there is none."""
    for code, variables in (*_described(descriptors), *known):
        found = Firmware(Path(code), Path(variables))
        if found.code.is_file() and found.variables.is_file():
            return found
    raise InputError("there is no UEFI firmware for QEMU", remedy="install it with `make deps` (Debian: ovmf)")


def quick_rom(known: Sequence[str] = _QUICK) -> Path | None:
    """QEMU's own small firmware, which starts a kernel that is given to it and nothing else; None if QEMU has none.

    It probes no disks and has no menus, so a machine starts earlier, most of all under emulation (docs/kernel.md).
    """
    return next((path for path in map(Path, known) if path.is_file()), None)


def _described(folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Code and variables of every suitable descriptor, in the order of their names."""
    files: dict[str, Path] = {}
    for folder in reversed(folders):
        files |= {path.name: path for path in folder.glob("*.json")} if folder.is_dir() else {}
    for _, path in sorted(files.items()):
        try:
            found = _suitable(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if found is not None:
            yield found


def _suitable(descriptor: Mapping[str, Any]) -> tuple[str, str] | None:
    """Code and variables of one descriptor; None if it is for other machines, or needs what ours do not have."""
    machines = [
        machine
        for target in descriptor["targets"]
        if target["architecture"] == "x86_64"
        for machine in target["machines"]
    ]
    mapping = descriptor["mapping"]
    fits = (
        "uefi" in descriptor["interface-types"]
        and any(fnmatchcase(_MACHINE, machine) for machine in machines)
        and not _UNWANTED & set(descriptor["features"])
        and mapping["device"] == "flash"
        and mapping.get("mode", "split") == "split"
        and mapping["executable"]["format"] == mapping["nvram-template"]["format"] == "raw"
    )
    return (mapping["executable"]["filename"], mapping["nvram-template"]["filename"]) if fits else None
