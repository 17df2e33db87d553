from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.kernel_config import REQUIREMENTS, check, parse, require
from vboot.errors import InputError

GOOD = {requirement.option: "y" for requirement in REQUIREMENTS}


def test_parse_reads_what_kconfig_writes() -> None:
    text = """#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.1.192 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="gcc (Debian) 12"
CONFIG_64BIT=y
CONFIG_VIRTIO=m
# CONFIG_PSI is not set
CONFIG_NR_CPUS=8192
CONFIG_PHYSICAL_START=0x1000000
CONFIG_LOCALVERSION=""
"""
    assert parse(text) == {
        "CC_VERSION_TEXT": "gcc (Debian) 12",
        "64BIT": "y",
        "VIRTIO": "m",
        "NR_CPUS": "8192",
        "PHYSICAL_START": "0x1000000",
        "LOCALVERSION": "",
    }


def test_the_last_line_about_an_option_counts() -> None:
    assert parse("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_A is not set\nCONFIG_B=m\n") == {"B": "m"}


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "CONFIG_A=", " CONFIG_A=y", "\x00"])
def test_a_foreign_line_is_named(line: str) -> None:
    with pytest.raises(InputError, match="line 2: expected CONFIG_NAME=VALUE"):
        parse(f"CONFIG_B=y\n{line}\n")


def test_an_empty_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="no option is set"):
        parse("# CONFIG_A is not set\n")


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_parse_never_fails_otherwise(text: str) -> None:
    try:
        config = parse(text)
    except InputError:
        return
    assert config


options = st.text("ABCZ019_", min_size=1, max_size=12)
values = st.one_of(st.sampled_from(["y", "m"]), st.integers().map(str), st.text("ab =#", max_size=9))


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(options, values, min_size=1))
def test_parse_gives_back_what_was_set(config: dict[str, str]) -> None:
    bare = {name: value in {"y", "m"} or value.lstrip("-").isdecimal() for name, value in config.items()}
    text = "".join(f"CONFIG_{n}={v}\n" if bare[n] else f'CONFIG_{n}="{v}"\n' for n, v in config.items())
    assert parse(text) == config


def test_a_full_configuration_has_no_finding() -> None:
    assert check(GOOD) == []
    require(GOOD)


@pytest.mark.parametrize(
    "option",
    [
        "VIRTIO_PCI",
        "VIRTIO_BLK",
        "VIRTIO_CONSOLE",
        "HW_RANDOM_VIRTIO",
        "DEVTMPFS",
        "TMPFS",
        "PROC_FS",
        "SYSFS",
        "SERIAL_8250_CONSOLE",
        "BLK_DEV_INITRD",
        "BINFMT_ELF",
        "MULTIUSER",
        "SECCOMP_FILTER",
        "MEMFD_CREATE",
        "SHMEM",
        "FUTEX",
        "EPOLL",
        "SIGNALFD",
        "TIMERFD",
        "EVENTFD",
    ],
)
def test_each_required_option_is_missed_by_name(option: str) -> None:
    lacking = {name: value for name, value in GOOD.items() if name != option}
    with pytest.raises(InputError, match=f"cannot run the appliance: CONFIG_{option} is n, expected y"):
        require(lacking)


@pytest.mark.parametrize("option", ["PSI", "SECURITY_LANDLOCK", "ACPI_BUTTON", "DM_VERITY", "EFI_STUB"])
def test_an_optional_option_is_found_but_not_required(option: str) -> None:
    lacking = {name: value for name, value in GOOD.items() if name != option}
    require(lacking)
    (finding,) = check(lacking)
    assert not finding.requirement.required
    assert str(finding).startswith(f"CONFIG_{option} is n, expected y")


def test_a_module_will_do_only_for_what_the_initramfs_loads() -> None:
    require(GOOD | {"VIRTIO_BLK": "m", "DM_VERITY": "m"})
    with pytest.raises(InputError, match="CONFIG_TMPFS is m, expected y "):
        require(GOOD | {"TMPFS": "m"})


def test_the_first_missing_option_is_named_with_their_count() -> None:
    with pytest.raises(InputError, match=r"CONFIG_PROC_FS is n.*\(3 required options are missing\)"):
        require({name: v for name, v in GOOD.items() if name not in {"EPOLL", "PROC_FS", "PSI", "VIRTIO_PCI"}})
