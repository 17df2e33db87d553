"""`vboot boot` of a disk image: what is asked of QEMU, and what is refused. tests/boot runs real machines."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.support import fake_qemu
from tests.support.disks import make_disk
from tests.support.vboot import Vboot

WORDS = ("boot", "--accel", "tcg", "--image", "disk.img")


@pytest.fixture(scope="module")
def sound(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("disk") / "sound.img"
    make_disk(image, output)
    return output


@pytest.fixture
def path(vboot: Vboot, sound: Path, tmp_path: Path) -> Path:
    """The disk as disk.img in the current folder."""
    here = tmp_path / "disk.img"
    here.hardlink_to(sound)
    return here


@pytest.fixture
def dying_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    Path(fake_qemu.install(folder, "die")).rename(folder / "qemu-system-x86_64")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--state", "s.img"], "--state does not apply to a disk image: its state partition is on it; leave it out"),
        (["--state-size", "64"], "--state-size does not apply to a disk image: its state partition is on it"),
        (["--append", "quiet"], "--append does not apply to a disk image: it is part of the disk; leave it out"),
        (["--model", "tiny"], "--model does not apply to a disk image: it is part of the disk"),
        (["--heartbeat-ms", "50"], "--heartbeat-ms does not apply to a disk image: it is part of the disk"),
        (["--verify"], "are for folders of images; check the disk with `vboot verify disk.img`"),
        (["--key", "k.pem"], "--verify, --key and --unchecked are for folders of images"),
        (["--unchecked"], "--verify, --key and --unchecked are for folders of images"),
    ],
)
def test_what_does_not_apply_to_a_disk(vboot: Vboot, path: Path, words: list[str], message: str) -> None:
    assert vboot(*WORDS, *words) == 1
    assert message in vboot.last_error()
    assert not Path("build").exists()


def test_persist_is_for_disks(vboot: Vboot, image: Path) -> None:
    for words in (["--image", str(image)], []):
        assert vboot("boot", "--persist", *words) == 1
        assert "--persist is for disk images; give one with --image, for example vector_boot.img" in vboot.last_error()


def test_without_persist_the_machine_has_an_overlay(vboot: Vboot, path: Path, dying_qemu: None) -> None:
    assert vboot(*WORDS, "--run", "run", "--cpus", "3") == 1
    command = Path("run/command.txt").read_text()
    assert "driver=qcow2" in command
    assert "run/disk.qcow2" in command
    assert "disk.img" not in command
    assert "if=pflash,unit=0" in command
    assert "file=" + str(Path("run/firmware-vars.fd").absolute()) in command
    assert "-kernel" not in command
    assert "-no-reboot" not in command, "the boot loader counts the tries of a slot"
    assert "-smp 3" in command
    record = json.loads(Path("run/machine.json").read_bytes())
    assert (record["disk"], record["model"]) == (str(path), "vector_boot tiny")
    assert str(path) in [each["path"] for each in record["inputs"]]
    assert "boot: model vector_boot tiny\n" in vboot.err
    assert "boot: disk disk.img, not written: changes end with the run folder" in vboot.err
    assert vboot("status", "run") == 0
    assert f"image    {path}\n" in vboot.out


def test_with_persist_it_writes_into_the_file(vboot: Vboot, path: Path, dying_qemu: None) -> None:
    assert vboot(*WORDS, "--run", "run", "--persist") == 1
    command = Path("run/command.txt").read_text()
    assert f"driver=raw,node-name=disk0,read-only=off,file.driver=file,file.filename={path}," in command
    assert not Path("run/disk.qcow2").exists()
    assert "boot: disk disk.img, written\n" in vboot.err
    assert vboot.json("status", "run")["image"] == str(path)


def test_a_file_that_another_machine_writes_to_is_refused(vboot: Vboot, path: Path, dying_qemu: None) -> None:
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert vboot(*WORDS, "--run", "run", "--persist") == 1
    assert "disk.img is used by another" in vboot.last_error()
    assert not Path("run").exists()
