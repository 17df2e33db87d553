from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from image import disk, gpt
from image.flash import FlashError, flash
from tests.support.vboot import Vboot
from vboot.block_devices import find_disk, list_disks
from vboot.errors import InputError

MIB = 1 << 20
LOSETUP = shutil.which("losetup", path="/usr/sbin:/sbin")


@dataclass
class Memory:
    """A disk in memory, full of old bytes. `fail` is called before each access, and may raise."""

    size: int
    fail: Callable[[str, int], None] = lambda _what, _offset: None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = bytearray(b"\xa5" * self.size)

    def read(self, offset: int, size: int) -> bytes:
        self.fail("read", offset)
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.fail("write", offset)
        self.calls.append(f"write {offset}")
        self.data[offset : offset + len(data)] = data

    def clear(self, offset: int, size: int) -> None:
        self.fail("clear", offset)
        self.calls.append(f"clear {offset}")
        self.data[offset : offset + size] = bytes(size)

    def flush(self) -> None:
        self.calls.append("flush")


def make_image(path: Path) -> Path:
    rts = path.with_suffix(".rts")
    rts.write_bytes(bytes(range(256)) * 1000)
    with path.open("w+b") as target, rts.open("rb") as source:
        disk.write_disk(
            target,
            esp=disk.esp_files(loader=b"loader", uki=b"kernel" * 1000, slot="A"),
            esp_bytes=34 * MIB,
            rts=source,
            tree=bytes(4096),
            slot_bytes=MIB,
            state_bytes=16 * MIB,
            seed=b"seed",
        )
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "disk.img")


def write(image: Path, target: Memory) -> None:
    with image.open("rb") as file:
        flash(file, target, progress=lambda *_: None)


def table_of(target: Memory) -> gpt.Gpt:
    return gpt.read(io.BytesIO(target.data), disk_size=target.size)


@pytest.mark.parametrize("more", [0, 7 * MIB, 512 * 1001])
def test_every_partition_is_as_in_the_image_and_old_bytes_are_gone(image: Path, more: int) -> None:
    content = image.read_bytes()
    target = Memory(len(content) + more)
    write(image, target)
    table = table_of(target)
    end = max(partition.end for partition in table.partitions)
    assert target.data[MIB:end] == content[MIB:end]
    assert table.disk_size == target.size, "the copy of the table is at the end"
    backup = bytearray(target.data)
    backup[512] ^= 1
    assert gpt.read(io.BytesIO(backup), disk_size=target.size).copy == "backup"


def test_the_table_is_cleared_first_and_written_last(image: Path) -> None:
    target = Memory(image.stat().st_size)
    write(image, target)
    assert target.calls[:2] == ["clear 0", "flush"]
    writes = [call for call in target.calls if call != "flush"]
    assert writes[-1] == "write 0"
    assert target.calls[-3:] == ["flush", "write 0", "flush"]


@pytest.mark.parametrize("access", ["read", "write", "clear"])
def test_a_disk_that_fails_holds_no_bootable_system(image: Path, access: str) -> None:
    def fail(what: str, offset: int) -> None:
        if what == access and offset > 34 * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    target = Memory(image.stat().st_size, fail)
    with pytest.raises(FlashError, match=r"failed at byte \d+: input/output error; the disk holds no bootable system"):
        write(image, target)
    with pytest.raises(gpt.GptError):
        table_of(target)


def test_a_disk_that_ends_early_is_told(image: Path) -> None:
    def fail(what: str, offset: int) -> None:
        if what != "read" and offset >= 36 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FlashError, match="no space left"):
        write(image, Memory(image.stat().st_size, fail))


def test_a_disk_that_forgets_what_was_written_is_found(image: Path) -> None:
    class Forgetful(Memory):
        def flush(self) -> None:
            self.data[35 * MIB + 700] ^= 1

    with pytest.raises(FlashError, match=rf"byte {35 * MIB + 700} was read back with another value"):
        write(image, Forgetful(image.stat().st_size))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 80 MiB full of old bytes."""
    if LOSETUP is None or os.geteuid() != 0:
        pytest.skip("needs losetup and root")
    (tmp_path / "loop").write_bytes(b"\xa5" * (80 * MIB))
    done = subprocess.run(
        [LOSETUP, "-f", "--show", tmp_path / "loop"], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    yield Path(done.stdout.strip())
    subprocess.run([LOSETUP, "-d", done.stdout.strip()], timeout=30, check=False)


def beginning(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(512)


def vboot_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that `vboot flash` takes: what is in its boot entry is not looked at here."""
    monkeypatch.setattr("cli.flash.open_disk_image", lambda path: path)
    return make_image(folder / "disk.img")


def test_a_real_disk_is_written_and_compared(
    tmp_path: Path, loop: Path, vboot: Vboot, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = vboot_disk(tmp_path, monkeypatch)
    assert vboot("flash", str(image), str(loop)) == 1
    assert "is a fixed disk; if it is the right one, add --force" in vboot.last_error()
    assert vboot("flash", str(image), str(loop), "--force") == 1
    assert "add --yes" in vboot.last_error()
    assert beginning(loop) == b"\xa5" * 512
    assert vboot("flash", str(image), str(loop), "--force", "--yes") == 0
    with loop.open("rb") as device:
        opened = disk.open_disk(device, size=80 * MIB)
        assert opened.gpt.disk_size == 80 * MIB
        assert opened.esp.read(disk.LOADER_PATH) == b"loader"
        device.seek(opened.state.start)
        assert not any(device.read(opened.state.size))


def test_a_disk_that_is_in_use_or_too_small_is_refused(
    tmp_path: Path, loop: Path, vboot: Vboot, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = vboot_disk(tmp_path, monkeypatch)
    held = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        assert vboot("flash", str(image), str(loop), "--force", "--yes") == 1
        assert "device or resource busy; unmount" in vboot.last_error()
    finally:
        os.close(held)
    with image.open("r+b") as file:
        file.truncate(81 * MIB)
    assert vboot("flash", str(image), str(loop), "--force", "--yes") == 1
    assert "is too small: the image has 81.0 MiB" in vboot.last_error()
    assert beginning(loop) == b"\xa5" * 512


def test_what_is_no_disk_is_refused(tmp_path: Path, vboot: Vboot) -> None:
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file", "is a file, expected a disk"), (Path("/dev/null"), "is no block device")):
        with pytest.raises(InputError, match=why):
            find_disk(path)
    with pytest.raises(InputError, match="no such file"):
        find_disk(tmp_path / "none")
    assert vboot("flash") == 1
    assert "give an image and a disk" in vboot.last_error()


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_disks_are_described_by_what_the_kernel_says(tmp_path: Path) -> None:
    usb = tmp_path / "sys/devices/pci0/usb1/1-1/block/sdb"
    put(
        usb,
        {
            "size": "1000\n",
            "removable": "0",
            "ro": "0",
            "dev": "8:16",
            "device/vendor": "Acme ",
            "device/model": "Stick",
            "sdb1/partition": "1",
            "sdb1/dev": "8:17",
        },
    )
    put(
        tmp_path / "sys/devices/nvme/nvme0/nvme0n1",
        {"size": "5000", "dev": "259:0", "p1/partition": "1", "p1/dev": "259:1"},
    )
    put(tmp_path / "sys/devices/virtual/dm-0", {"size": "10", "dev": "253:0"})
    put(tmp_path / "sys/devices/virtual/loop9", {"size": "0", "dev": "7:9"})
    for name, place in (
        ("sdb", usb),
        ("nvme0n1", tmp_path / "sys/devices/nvme/nvme0/nvme0n1"),
        ("dm-0", tmp_path / "sys/devices/virtual/dm-0"),
        ("loop9", tmp_path / "sys/devices/virtual/loop9"),
    ):
        (tmp_path / "sys/block").mkdir(exist_ok=True)
        (tmp_path / "sys/block" / name).symlink_to(place)
    put(tmp_path / "sys/dev/block/253:0/slaves/x", {"dev": "259:1"})
    put(
        tmp_path / "proc",
        {
            "self/mountinfo": "1 0 253:0 / / rw - ext4 /dev/root rw\n2 1 8:17 / /mnt/a\\040b rw - vfat /dev/sdb1 rw\n",
            "swaps": "Filename Type\n",
        },
    )
    nvme, stick = list_disks(sys=tmp_path / "sys", proc=tmp_path / "proc")
    assert (nvme.path, nvme.transport, nvme.system, nvme.removable) == (Path("/dev/nvme0n1"), "nvme", True, False)
    assert nvme.used_by == ("mounted at /",)
    assert (stick.title, stick.transport, stick.removable, stick.bytes) == ("Acme Stick", "usb", True, 512_000)
    assert (stick.used_by, stick.system) == (("mounted at /mnt/a b",), False)
