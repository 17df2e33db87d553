"""The steps that make a disk: what is planned, what is refused, and what the steps write."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from builder.cache import open_cache
from builder.config import load_config
from builder.disk_steps import copy_step, disk_step, formats_of, uki_step, verity_step
from builder.pipeline import run
from builder.plan import plan_build
from builder.progress import PlainReporter
from builder.settings import Config, DiskSettings, Value
from builder.steps import Context, Facts, Step
from image.disk import open_disk
from image.uki import read as read_uki
from tests.support.disks import LOADER, MIB, STUB
from vboot.errors import InputError, ToolError

SIZES = DiskSettings(esp_mib=64, slot_mib=None, state_mib=16)


def config(folder: Path, **flags: Value) -> Config:
    wanted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_config(flags={"image.output": folder, "model.source": "tiny", **wanted}, environment={}, file=None)


def build(folder: Path, steps: Sequence[Step]) -> None:
    with open_cache(folder, writing=True) as cache:
        run(steps, cache=cache, dry_run=False, reporter=PlainReporter(StringIO()))


def names(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps]


def kernel_facts(_context: Context) -> Facts:
    return {"release": "6.1.0-test"}


@pytest.fixture
def folder(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of a direct image, and nothing of a disk."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "build"
    copy.mkdir()
    for name in ("vmlinuz", "initramfs.cpio", "vector_boot.rts"):
        (copy / name).hardlink_to(image / name)
    return copy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("iso", "image.format: 'iso' is unknown, expected some of direct, disk, qcow2, vmdk, vhdx"),
        ("", "image.format: '' is unknown"),
        ("disk,", "image.format: '' is unknown"),
        ("direct,disk", "image.format: direct stands alone, because a disk brings its files too"),
        ("qcow2", "image.format: qcow2 is a copy of the disk; ask for disk,qcow2"),
        ("vmdk,vhdx", "image.format: vmdk is a copy of the disk; ask for disk,vmdk,vhdx"),
    ],
)
def test_formats_that_are_refused(folder: Path, text: str, why: str) -> None:
    with pytest.raises(InputError) as raised:
        formats_of(config(folder, image__format=text))
    assert why in str(raised.value)


def test_what_is_planned(folder: Path) -> None:
    direct = names(plan_build(config(folder)))
    assert not {"bootloader", "verity", "uki", "disk"} & set(direct)
    steps = plan_build(config(folder, image__format="vhdx, disk,qcow2 ,vmdk,disk"))
    # What is not the same when it is made twice comes after the manifest, which does not list it.
    assert names(steps) == [*direct[:-2], "bootloader", "verity", "uki", "disk", "qcow2", *direct[-2:], "vhdx", "vmdk"]


def made(folder: Path, stub: Path, loader: Path, disk: DiskSettings, **flags: Value) -> Path:
    """The disk that the steps make of the files in `folder`."""
    settings = config(folder, **flags)
    rts, tree, output = folder / "vector_boot.rts", folder / "vector_boot.verity", folder / "vector_boot.img"
    images = uki_step(settings, folder=folder, tree=tree, stub=stub)
    steps = [
        Step("kernel", kernel_facts, outputs=(folder / "vmlinuz",)),
        verity_step(rts, tree),
        images,
        disk_step(disk, loader=loader, uki=images.outputs[0], rts=rts, tree=tree, output=output),
    ]
    build(folder, steps)
    return output


@pytest.fixture
def programs(tmp_path: Path) -> tuple[Path, Path]:
    """Stub and boot loader."""
    stub, loader = tmp_path / "stub.efi", tmp_path / "loader.efi"
    stub.write_bytes(STUB)
    loader.write_bytes(LOADER)
    return stub, loader


def test_two_builds_give_the_same_disk(folder: Path, programs: tuple[Path, Path], tmp_path: Path) -> None:
    first = made(folder, *programs, SIZES)
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("vb-*", "vector_boot.img", "*.verity", ".vboot*"))
    again = made(other, *programs, SIZES)
    assert again.read_bytes() == first.read_bytes()
    for name in ("vb-a.efi", "vb-b.efi", "vector_boot.verity"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    assert (folder / "vb-a.efi").read_bytes() != (folder / "vb-b.efi").read_bytes()


def test_the_command_lines_of_the_slots(folder: Path, programs: tuple[Path, Path]) -> None:
    made(folder, *programs, SIZES, runtime__heartbeat_ms=50, kernel__profile="metal")
    lines = {}
    for slot in "ab":
        read = read_uki((folder / f"vb-{slot}.efi").read_bytes(), what=slot)
        assert read.release == "6.1.0-test"
        lines[slot] = read.command_line
    assert lines["a"].startswith("console=ttyS0 console=tty0 panic=-1 quiet vector_boot.heartbeat_ms=50 ")
    assert " vector_boot.onfail=reboot " in lines["a"], "or the boot loader would not get to the other slot"
    assert " vector_boot.slot=A vector_boot.verity=" in lines["a"]
    assert lines["b"] == lines["a"].replace("vector_boot.slot=A", "vector_boot.slot=B")


def test_a_machine_that_shall_hold_holds(folder: Path, programs: tuple[Path, Path]) -> None:
    made(folder, *programs, SIZES, runtime__onfail="hold")
    assert "vector_boot.onfail=hold" in read_uki((folder / "vb-a.efi").read_bytes(), what="a").command_line


def test_the_sizes_of_the_partitions(folder: Path, programs: tuple[Path, Path]) -> None:
    path = made(folder, *programs, DiskSettings(esp_mib=80, slot_mib=40, state_mib=17))
    with path.open("rb") as file:
        disk = open_disk(file, size=path.stat().st_size)
        assert [part.size // MIB for part in disk.gpt.partitions] == [80, 40, 40, 17]
        assert disk.header(file, "A") is not None
        assert disk.header(file, "B") is None
        assert [entry.name for entry in disk.entries()] == ["vb-a+3.efi"]


def test_what_does_not_fit(folder: Path, programs: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"the image is larger than a slot.*; give larger slots with --slot-size"):
        made(folder, *programs, replace(SIZES, slot_mib=1))
    assert not (folder / "vector_boot.img").exists()
    with (folder / "initramfs.cpio").open("rb") as source, (folder / "padded").open("wb") as target:
        shutil.copyfileobj(source, target)
        target.write(random.Random(1).randbytes(30 * MIB))
    (folder / "padded").replace(folder / "initramfs.cpio")
    with pytest.raises(InputError, match="EFI system partition"):
        made(folder, *programs, replace(SIZES, esp_mib=34))
    assert not (folder / "vector_boot.img").exists()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A small file with holes in place of a disk."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(random.Random(2).randbytes(100_000))
        file.truncate(8 * MIB)
    return path


@pytest.mark.parametrize(("kind", "same"), [("qcow2", True), ("vmdk", False), ("vhdx", False)])
def test_copies_for_virtual_machines(tmp_path: Path, raw: Path, kind: str, same: bool) -> None:
    step = copy_step(raw, kind)
    output = tmp_path / f"disk.{kind}"
    assert step.outputs == (output,)
    build(tmp_path, [step])
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", kind, raw, output], check=True, timeout=60)
    first = output.read_bytes()
    output.unlink()
    build(tmp_path, [step])
    assert (output.read_bytes() == first) is same


def test_a_copy_that_cannot_be_made(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(ToolError, match=r"qemu-img does not run .*; install it \(Debian: qemu-utils\)"):
        build(tmp_path, [copy_step(raw, "qcow2")])
    (programs / "qemu-img").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (programs / "qemu-img").chmod(0o755)
    with pytest.raises(ToolError, match="qemu-img made no qcow2: no space left"):
        build(tmp_path, [copy_step(raw, "qcow2")])
    assert not (tmp_path / "disk.qcow2").exists()
