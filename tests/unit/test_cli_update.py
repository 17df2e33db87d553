"""`vboot update` on disks that no machine uses: what it writes, what it refuses, and what a kill leaves."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import cast

import pytest

from image.disk import Slot, open_disk
from image.slot_update import bundle, slot_contents, slot_to_keep
from tests.support import efi_programs
from tests.support.local_machine import tiny_model
from tests.support.reloading import another
from tests.support.slot_disks import Build, Found, build, found, make_disk
from tests.support.vboot import KEY, PUBLIC_HEX, Vboot


@pytest.fixture(scope="module")
def builds(executable: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    """An old and a new build."""
    folder = tmp_path_factory.mktemp("builds")
    program = executable.read_bytes()
    return build(folder / "old", program, text=b"old"), build(folder / "new", another(executable, b"new"), text=b"new")


def contents(made: Build) -> tuple[int, bytes]:
    """Bytes and SHA-256 of what the partition gets."""
    with (made.folder / "vector_boot.rts").open("rb") as rts:
        whole = slot_contents(rts)
        data = b"".join(whole.pieces(rts))
    assert (len(data), hashlib.sha256(data).hexdigest()) == (whole.size, whole.sha256)
    return whole.size, hashlib.sha256(data).digest()


def look(disk: Path, made: Build) -> Found:
    return found(disk, contents(made)[0])


def fsck(disk: Path) -> None:
    """The file system is sound for a program that is not ours."""
    program = shutil.which("fsck.fat", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("needs fsck.fat (Debian: dosfstools)")
    with disk.open("rb") as file:
        esp = open_disk(file, size=disk.stat().st_size).esp_partition
        file.seek(esp.start)
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(file.read(esp.size))
            copy.flush()
            done = subprocess.run([program, "-n", copy.name], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_other_slot_is_written_and_started_next(vboot: Vboot, builds: tuple[Build, Build], tmp_path: Path) -> None:
    old, new = builds
    disk = make_disk(tmp_path / "disk.img", old, entries={"vb-a.efi": "A"})
    answer = vboot.json("update", disk, "--from", new.folder)
    assert answer["slot"] == "B"
    after = look(disk, new)
    assert after.files == {"vb-a.efi": old.boot_file("A"), "vb-b+3.efi": new.boot_file("B")}
    assert (after.default, after.slots["B"]) == ("B", contents(new)[1])
    fsck(disk)
    # Again: slot A was found good, and slot B was not started yet.
    assert vboot.json("update", disk, "--from", old.folder)["slot"] == "B"
    again = look(disk, old)
    assert again.files == {"vb-a.efi": old.boot_file("A"), "vb-b+3.efi": old.boot_file("B")}
    assert again.slots["B"] == contents(old)[1]
    fsck(disk)


@pytest.mark.parametrize(
    ("entries", "default_and_kept"),
    [
        ({"vb-a+3.efi": "A"}, "AA"),
        ({"vb-a+3.efi": "A", "vb-b.efi": "B"}, "AB"),
        ({"vb-a.efi": "A", "vb-b+2-1.efi": "B"}, "BA"),
        ({"vb-a.efi": "A", "vb-b.efi": "B"}, "BB"),
        ({"vb-a+1-2.efi": "A", "vb-b+0-3.efi": "B"}, "BA"),
        ({"vb-a+0-3.efi": "A", "vb-b+0-3.efi": "B"}, "AA"),
    ],
)
def test_the_slot_that_was_found_good_is_kept(
    entries: dict[str, Slot], default_and_kept: str, vboot: Vboot, builds: tuple[Build, Build], tmp_path: Path
) -> None:
    default, kept = cast("tuple[Slot, Slot]", tuple(default_and_kept))
    old, new = builds
    disk = make_disk(tmp_path / "disk.img", old, entries=entries, default=default)
    with disk.open("rb") as file:
        assert slot_to_keep(open_disk(file, size=disk.stat().st_size)) == kept
    assert vboot.json("update", disk, "--from", new.folder)["slot"] == ("B" if kept == "A" else "A")
    names = [name for name, slot in entries.items() if slot == kept]
    assert look(disk, new).files[names[0]] == old.boot_file(kept)


def test_what_does_not_fit_is_refused_before_anything_changes(
    vboot: Vboot, builds: tuple[Build, Build], tmp_path: Path
) -> None:
    old, new = builds
    small = make_disk(tmp_path / "small.img", old, entries={"vb-a.efi": "A", "vb-b.efi": "B"}, slot_mib=5)
    before = small.read_bytes()
    big = build(tmp_path / "big", new.rts[512 : 512 + (3 << 20)] + bytes(2 << 20))
    assert vboot("update", small, "--from", big.folder) == 1
    assert "and the partition of slot B has 5242880; make a disk with larger partitions" in vboot.err
    assert small.read_bytes() == before
    signed = build(tmp_path / "signed", (old.folder / "program").read_bytes(), key=KEY, version=2)
    disk = make_disk(tmp_path / "signed.img", signed, entries={"vb-a.efi": "A"})
    before = disk.read_bytes()
    assert vboot("update", disk, "--from", new.folder) == 1
    assert "this machine runs a signed image: give the public key" in vboot.err
    older = build(tmp_path / "older", (old.folder / "program").read_bytes(), key=KEY, version=1)
    assert vboot("update", disk, "--from", older.folder, "--code-key", PUBLIC_HEX) == 1
    assert "security version 1, the one that runs has 2" in vboot.err
    assert disk.read_bytes() == before
    assert vboot("update", disk, "--from", signed.folder, "--code-key", PUBLIC_HEX) == 0


def test_what_is_no_boot_file_of_the_slot_is_refused(vboot: Vboot, builds: tuple[Build, Build], tmp_path: Path) -> None:
    old, new = builds
    disk = make_disk(tmp_path / "disk.img", old, entries={"vb-a.efi": "A"})
    before = disk.read_bytes()
    wrong = tmp_path / "wrong"
    shutil.copytree(new.folder, wrong)
    cases = [
        (new.boot_file("A"), "is made for slot"),
        (new.boot_file("B")[:-600], ""),
        (efi_programs.program(), "it has no section"),
        (old.boot_file("B"), "was made with another image"),
        (b"text", ""),
    ]
    for made, said in cases:
        (wrong / "vb-b.efi").write_bytes(made)
        assert vboot("update", disk, "--from", wrong) == 1
        assert said in vboot.err
    (wrong / "vb-b.efi").unlink()
    assert vboot("update", disk, "--from", wrong) == 1
    assert "has no boot file vb-b.efi of a disk; make it with `vboot build --format disk`" in vboot.err
    assert vboot("update", tiny_model(), "--from", new.folder) == 1
    assert vboot("update", disk, "--from", new.folder, "--reboot") == 1
    assert disk.read_bytes() == before


def test_a_disk_in_use_is_refused(vboot: Vboot, builds: tuple[Build, Build], tmp_path: Path) -> None:
    old, new = builds
    disk = make_disk(tmp_path / "disk.img", old, entries={"vb-a.efi": "A"})
    with disk.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert vboot("update", disk, "--from", new.folder) == 1
    assert "is in use: another machine uses it" in vboot.err


def test_a_kill_at_any_step_leaves_a_slot_that_boots(
    vboot: Vboot, builds: tuple[Build, Build], executable: Path, tmp_path: Path
) -> None:
    old, new = builds
    size, digest = contents(new)
    disk = make_disk(tmp_path / "disk.img", old, entries={"vb-a.efi": "A", "vb-b+1-2.efi": "B"})
    with (new.folder / "vector_boot.rts").open("rb") as rts:
        whole = slot_contents(rts)
        pieces = list(whole.pieces(rts))
        brought = tmp_path / "bundle"
        brought.write_bytes(bundle(rts, new.boot_file("B"), whole, what="vb-b.efi"))
    with disk.open("rb") as file:
        opened = open_disk(file, size=disk.stat().st_size)
    places = [f"{place.start}:{place.size}" for place in (opened.esp_partition, opened.slots["B"], opened.slots["A"])]
    order = [*places, str(brought), "B", str(size), whole.sha256]
    command = [str(executable), "--update-disk", str(disk), *order]
    whole_disk = disk.read_bytes()
    for sent in range(len(pieces) + 1):
        disk.write_bytes(whole_disk)
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        for piece in pieces[:sent]:
            writer.stdin.write(piece)
            writer.stdin.flush()
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
        left = found(disk, size)
        assert left.files["vb-a.efi"] == old.boot_file("A")
        if left.starts() == "B":  # it was killed too late
            assert (left.files["vb-b+3.efi"], left.slots["B"]) == (new.boot_file("B"), digest)
        elif sent < len(pieces):
            assert list(left.files) == ["vb-a.efi"]
        assert vboot("update", disk, "--from", new.folder) == 0
        assert look(disk, new).files["vb-b+3.efi"] == new.boot_file("B")
    fsck(disk)
