"""Updates of the other slot under UEFI firmware: a bad slot is left by itself, a good one is kept, changes survive."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.disk import open_disk
from image.slot_update import bundle, slot_contents
from initramfs.build import SENTINEL
from tests.boot.conftest import Image
from tests.support.state_devices import StateWriter
from tests.support.updating import (
    SLOWEST_BOOT_S,
    await_boot,
    client_of,
    disk_with_slot_a,
    machine_of,
    running,
    source,
)
from tests.support.vboot import Vboot
from vboot.client.machine import MachineClient
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.tables import Code
from vboot.weights.edits import Dense

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
TENSOR = "token_embd.weight"


@pytest.fixture
def vboot(capsys: pytest.CaptureFixture[str]) -> Vboot:
    return Vboot(capsys)


def change(client: MachineClient, value: bytes) -> tuple[int, str]:
    """A durable change. Returns generation and digest."""
    done = client.mutate([Dense(TENSOR, 0, value * 32)], confidence=0.9, wait=True)
    assert done.durable
    return state(client)


def state(client: MachineClient) -> tuple[int, str]:
    found = client.digest([])
    return found.generation, found.model


def entries(disk: Path) -> list[str]:
    with disk.open("rb") as file:
        return [entry.name for entry in open_disk(file, size=disk.stat().st_size).entries()]


def test_a_bad_slot_is_left_and_a_good_one_is_kept(vboot: Vboot, tiny: Image, tmp_path: Path) -> None:
    good = source(tiny.folder, tmp_path / "good")
    archive = (tiny.folder / "initramfs.cpio").read_bytes()
    bad = source(tiny.folder, tmp_path / "bad", initramfs=archive[: archive.rindex(SENTINEL.encode()) - 110])
    disk = disk_with_slot_a(tiny.folder, tmp_path / "disk.img", good, name="vb-a+3.efi")
    with running(machine_of(disk), tmp_path / "run") as machine:
        with client_of(machine) as client:
            assert await_boot(client).boot.tries_left == 2
            stats = await_boot(client, blessed=True)
            assert (stats.slot, stats.boot.fell_back, stats.boot.problem) == ("A", None, None)
            before = change(client, b"\1\2")
        assert vboot.json("update", machine.evolution, "--from", bad, "--reboot")["slot"] == "B"
        machine.wait_for_console("slot A runs because slot B was started 3 times", timeout=600)
        with client_of(machine) as client:
            stats = await_boot(client)
            assert (stats.slot, stats.boot.blessed) == ("A", True)
            assert stats.boot.fell_back == "slot B was started 3 times and never found good"
            assert state(client) == before
            after = change(client, b"\3\4")
        assert vboot.json("update", machine.evolution, "--from", good, "--reboot")["slot"] == "B"
        machine.wait_for_console("slot B is on trial, with 2 more tries", timeout=600)
        with client_of(machine) as client:
            stats = await_boot(client, blessed=True)
            assert (stats.slot, stats.boot.fell_back) == ("B", None)
            assert state(client) == after
    assert entries(disk) == ["vb-a.efi", "vb-b.efi"]


def test_a_power_cut_during_an_update_leaves_the_slot_that_ran(tiny: Image, tmp_path: Path) -> None:
    good = source(tiny.folder, tmp_path / "good")
    disk = disk_with_slot_a(tiny.folder, tmp_path / "disk.img", good)
    with running(machine_of(disk), tmp_path / "first") as machine, client_of(machine) as client:
        before = change(client, b"\1\2")
        stop_in_the_middle(client, good)
    assert entries(disk) == ["vb-a.efi"]
    with running(machine_of(disk), tmp_path / "second") as machine, client_of(machine) as client:
        stats = await_boot(client)
        assert (stats.slot, stats.boot.blessed, stats.boot.fell_back) == ("A", True, None)
        assert state(client) == before


def stop_in_the_middle(client: MachineClient, made: Path) -> None:
    """Begin an update and write half of the partition."""
    with (made / "vector_boot.rts").open("rb") as rts:
        whole = slot_contents(rts)
        brought = bundle(rts, (made / "vb-b.efi").read_bytes(), whole, what="vb-b.efi")
        pieces = list(whole.pieces(rts))

    def half() -> Iterator[bytes]:
        yield from pieces[: len(pieces) // 2]
        raise InterruptedError

    with pytest.raises(InterruptedError):
        client.update(brought, half(), slot_bytes=whole.size, slot_sha256=whole.sha256)


def test_a_slot_that_cannot_read_the_journal_writes_nothing_and_is_not_found_good(tiny: Image, tmp_path: Path) -> None:
    good = source(tiny.folder, tmp_path / "good")
    disk = disk_with_slot_a(tiny.folder, tmp_path / "disk.img", good, name="vb-a+3.efi")
    newer = StateWriter()
    newer.next_superblock(version=9, least_reader=9)
    newer.next_superblock()
    with disk.open("r+b") as file:
        place = open_disk(file, size=disk.stat().st_size).state
        file.seek(place.start)
        file.write(newer.data)
    with running(machine_of(disk), tmp_path / "run") as machine, client_of(machine) as client:
        assert not client.hello().durable
        with pytest.raises(RequestRefusedError) as refused:
            client.mutate([Dense(TENSOR, 0, bytes(64))], confidence=0.9, wait=True)
        assert (refused.value.code, refused.value.data) == (Code.JOURNAL_FAILED, {"reason": "newer"})
        machine.wait_for_console("slot A is not found good: the journal takes no changes: ", timeout=SLOWEST_BOOT_S)
        stats = await_boot(client)
        assert (stats.boot.blessed, stats.boot.tries_left) == (False, 2)
        assert stats.boot.problem.startswith("the journal takes no changes: ")
    with disk.open("rb") as file:
        file.seek(place.start)
        assert file.read(len(newer.data)) == newer.data
    assert entries(disk) == ["vb-a+2-1.efi"]
