from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qemu.firmware import Firmware, find_firmware, quick_rom
from vboot.errors import InputError


def descriptor(folder: Path, name: str, **changes: Any) -> Firmware:
    """A descriptor with its two files. `changes` replace members of it, or of its mapping."""
    files = Firmware(folder / f"{name}.code", folder / f"{name}.vars")
    for file in (files.code, files.variables):
        file.write_bytes(b"firmware")
    members: dict[str, Any] = {
        "interface-types": ["uefi"],
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(files.code), "format": "raw"},
            "nvram-template": {"filename": str(files.variables), "format": "raw"},
        },
    }
    (folder / f"{name}.json").write_text(json.dumps({**members, **changes}))
    return files


def test_the_first_suitable_descriptor_is_taken(tmp_path: Path) -> None:
    descriptor(tmp_path, "10-bios", **{"interface-types": ["bios"]})
    descriptor(tmp_path, "20-arm", targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    descriptor(tmp_path, "30-secure", features=["secure-boot", "requires-smm"])
    descriptor(tmp_path, "40-memory", mapping={"device": "memory", "filename": "/x"})
    (tmp_path / "45-damaged.json").write_text("{")
    (tmp_path / "46-list.json").write_text("[]")
    wanted = descriptor(tmp_path, "50-plain")
    descriptor(tmp_path, "60-later")
    assert find_firmware([tmp_path], known=()) == wanted


def test_a_descriptor_of_an_earlier_folder_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "usr"
    first.mkdir()
    second.mkdir()
    wanted = descriptor(first, "50")
    descriptor(second, "50")
    assert find_firmware([first, second], known=()) == wanted


def test_without_a_descriptor_known_paths_are_tried(tmp_path: Path) -> None:
    code, variables = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    known = [("/nowhere/CODE.fd", "/nowhere/VARS.fd"), (str(code), str(variables))]
    with pytest.raises(InputError, match=r"no UEFI firmware .*Debian: ovmf"):
        find_firmware([tmp_path], known)
    code.touch()
    variables.touch()
    assert find_firmware([tmp_path], known) == Firmware(code, variables)


def test_a_descriptor_whose_files_are_gone_is_passed_over(tmp_path: Path) -> None:
    descriptor(tmp_path, "50").variables.unlink()
    wanted = descriptor(tmp_path, "60")
    assert find_firmware([tmp_path], known=()) == wanted


def test_the_small_rom_is_the_first_that_is_there(tmp_path: Path) -> None:
    rom = tmp_path / "qboot.rom"
    known = ("/nowhere/qboot.rom", str(rom))
    assert quick_rom(known) is None
    rom.touch()
    assert quick_rom(known) == rom
