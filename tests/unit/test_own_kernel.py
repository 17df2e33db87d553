from __future__ import annotations

from pathlib import Path

import pytest

from builder import kernel_config, own_kernel
from builder.kernel_config import REQUIREMENTS
from vboot.errors import ToolError


@pytest.mark.parametrize("profile", own_kernel.PROFILES)
def test_a_profile_has_all_that_the_appliance_requires(profile: str) -> None:
    options = kernel_config.parse(own_kernel.fragment(profile))
    # The others are on by default, or follow from these; a build compares the whole result.
    implied = {"PARTITION", "SECCOMP", "MSDOS_PARTITION"}
    missing = [str(each) for each in REQUIREMENTS if each.option not in {*options, *implied}]
    assert missing == []


def test_metal_adds_the_devices_of_a_pc_and_takes_nothing_away() -> None:
    vm, metal = (kernel_config.parse(own_kernel.fragment(profile)) for profile in own_kernel.PROFILES)
    assert set(vm) < set(metal)
    assert {"SATA_AHCI", "BLK_DEV_NVME", "USB_STORAGE", "USB_HID", "FB_EFI", "USB_SERIAL", "ITCO_WDT"} <= set(
        metal
    ) - set(vm)


def test_no_option_is_named_twice() -> None:
    for profile in own_kernel.PROFILES:
        lines = [line for line in own_kernel.fragment(profile).splitlines() if line.startswith("CONFIG_")]
        assert len(lines) == len({line.partition("=")[0] for line in lines})
        assert all(line.endswith(("=y", '"')) or line.partition("=")[2].isdigit() for line in lines)


def test_an_option_that_make_did_not_take_over_is_found() -> None:
    wanted = "# a comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_N=4\n"
    config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=64\n"
    assert own_kernel.lost_options(wanted, config) == ["CONFIG_B=y", "CONFIG_N=4"]
    assert own_kernel.lost_options(wanted, wanted) == []


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError, match=r"needs gcc, make, flex, .*; run `make deps`, or take Debian's with --kernel debian"
    ):
        own_kernel.own_kernel(tmp_path, profile="vm", progress=lambda *_: None)
