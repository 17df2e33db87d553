from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.doctor import HostTool, can_build, examine_host, host_tools, parse_host_tools
from builder.executable import find_toolchain
from tests.support.vboot import Vboot


@pytest.fixture
def empty_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH and a home with nothing in them."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    return tmp_path


def test_this_host_can_build(tmp_path: Path) -> None:
    diagnoses = {diagnosis.name: diagnosis for diagnosis in examine_host(tmp_path)}
    assert can_build(list(diagnoses.values()))
    for name, word in (
        ("cargo", "cargo "),
        ("rustc", "rustc "),
        ("gcc", "gcc"),
        ("make", "GNU Make"),
        ("cpio", "cpio"),
    ):
        assert word in (diagnoses[name].found or "")
    assert "QEMU emulator version" in (diagnoses["qemu-system-x86_64"].found or "")
    assert (diagnoses["accelerator"].found or "").startswith(("kvm: ", "tcg: "))
    assert "GiB free" in (diagnoses["disk space"].found or "")


def test_host_without_anything(empty_host: Path) -> None:
    find_toolchain.cache_clear()
    diagnoses = examine_host(empty_host / "new" / "folder")
    missing = {diagnosis.name: diagnosis.remedy for diagnosis in diagnoses if diagnosis.found is None}
    assert {"cargo", "rustc", "gcc", "make", "g++", "cpio", "qemu-system-x86_64", "dpkg-deb", "apt-get"} <= set(missing)
    assert "run `make deps`" in missing["cargo"]
    assert "Debian's package qemu-system-x86" in missing["qemu-system-x86_64"]
    assert not can_build(diagnoses)


def test_what_only_boots_or_tests_does_not_stop_a_build(tmp_path: Path) -> None:
    diagnoses = [
        replace(diagnosis, found=None if diagnosis.needed_by != "build" else "there")
        for diagnosis in examine_host(tmp_path)
    ]
    assert can_build(diagnoses)
    assert not can_build([replace(diagnoses[0], found=None), *diagnoses[1:]])


def test_program_that_does_not_run_is_missing(empty_host: Path) -> None:
    find_toolchain.cache_clear()
    for name, script in (("gcc", "echo gcc 12; exit 1"), ("make", "echo GNU Make 9")):
        (empty_host / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (empty_host / "bin" / name).chmod(0o755)
    found = {diagnosis.name: diagnosis.found for diagnosis in examine_host(empty_host)}
    assert found["gcc"] is None
    assert found["make"] == "GNU Make 9"


def test_busybox_has_no_option_for_its_version(empty_host: Path) -> None:
    find_toolchain.cache_clear()
    program = empty_host / "bin" / "busybox"
    program.write_text("#!/bin/sh\n[ $# = 0 ] || exit 127\necho BusyBox v1\n")
    program.chmod(0o755)
    found = {diagnosis.name: diagnosis.found for diagnosis in examine_host(empty_host)}
    assert found["busybox"] == "BusyBox v1"


def test_no_build_is_suggested_where_an_image_is(vboot: Vboot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert vboot("doctor") == 0
    assert "next: vboot build" in vboot.out
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "manifest.json").touch()
    assert vboot("doctor") == 0
    assert "next:" not in vboot.out


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.doctor.MINIMUM_FREE_BYTES", 1 << 60)
    disk = next(diagnosis for diagnosis in examine_host(tmp_path) if diagnosis.name == "disk space")
    assert disk.found is None
    assert f"at {tmp_path}: make room" in disk.remedy


def test_table_of_host_tools() -> None:
    assert parse_host_tools("# c\n\na|b|build|c d\n/x*/y /z|p|boot|q\n") == [
        HostTool("a", "b", "build", "c d"),
        HostTool("/x*/y /z", "p", "boot", "q"),
    ]
    assert {tool.needed_by for tool in host_tools()} <= {"build", "boot", "tests"}
