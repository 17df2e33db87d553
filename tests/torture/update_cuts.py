"""Updates of a slot that are cut: by loss of power at each write, by SIGKILL, by errors of the disk.

    python -m tests.torture.update_cuts [--image build/test/tiny] [--seed 1] [--subsets 3] [--kills 6] [--parts ...]

The table of spec/update.md, each step times {kill, error, cut}:

* cut: QEMU's blklogwrites logs what a whole update writes. Every prefix of the log, and random sectors of what was
  written since the last flush, are judged.
* error: writes to one sector of each step fail once, one after another in one boot; each update fails, and the last
  succeeds.
* kill: SIGKILL for QEMU at random moments of an update, and again for the process that writes a disk image.

The oracle: the boot loader would start a slot whose boot file and partition are whole, those of the old build or of the
new one; a change that was acknowledged before is in the journal of the state partition.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from random import Random

from image.disk import open_disk
from image.slot_update import SlotContents, bundle, slot_contents
from tests.support.slot_disks import Found, found
from tests.support.updating import client_of, disk_with_slot_a, machine_of, running, source
from tests.torture.expectation import DeviationError
from tests.torture.write_log import read_log
from vboot.client.machine import MachineClient
from vboot.errors import VbootError
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.tables import Code
from vboot.weights.edits import Dense

PARTS = ("cut", "error", "kill")
TENSOR = "token_embd.weight"
_FAT, _SLOT_START, _SLOT_END = "allocation table", "first sector of the slot", "last sector of the slot"
_FOLDER, _SETTINGS = "folder of the entries", "loader.conf"


@dataclass(frozen=True)
class Builds:
    """Two folders to update from: their boot files differ, the image is the same."""

    image: Path
    old: Path
    new: Path
    contents: SlotContents

    def bundle(self) -> bytes:
        """What `update_begin` gets for slot B."""
        with (self.new / "vector_boot.rts").open("rb") as rts:
            return bundle(rts, (self.new / "vb-b.efi").read_bytes(), self.contents, what="vb-b.efi")

    def update(self, client: MachineClient) -> str:
        """A whole update."""
        with (self.new / "vector_boot.rts").open("rb") as rts:
            pieces = self.contents.pieces(rts)
            return client.update(self.bundle(), pieces, slot_bytes=self.contents.size, slot_sha256=self.contents.sha256)


def make_builds(image: Path, folder: Path) -> Builds:
    """Both builds in `folder`."""
    old = source(image, folder / "old")
    new = source(image, folder / "new", words={"vector_boot.energy": "off"})
    with (image / "vector_boot.rts").open("rb") as rts:
        return Builds(image, old, new, slot_contents(rts))


@dataclass
class Oracle:
    """Judges what is on a disk. `counted`: which slot would be started."""

    builds: Builds
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._a = hashlib.sha256((self.builds.old / "vb-a.efi").read_bytes()).digest()
        self._b = {
            name: hashlib.sha256((folder / "vb-b.efi").read_bytes()).digest()
            for name, folder in (("old", self.builds.old), ("new", self.builds.new))
        }

    def judge(self, disk: Path, where: str) -> Found:
        """Raises DeviationError if the disk would start nothing, or something that is not whole."""
        left = found(disk, self.builds.contents.size)
        started = left.starts()
        self.counted[f"starts {started}"] += 1
        if hashlib.sha256(left.files.get("vb-a.efi", b"")).digest() != self._a:
            raise DeviationError(f"{where}: the boot file of slot A is not what it was")
        if left.slots["A"].hex() != self.builds.contents.sha256:
            raise DeviationError(f"{where}: the partition of slot A is not what it was")
        for name, data in left.files.items():
            if name[3] == "b" and "+0" not in name:
                if hashlib.sha256(data).digest() not in self._b.values():
                    raise DeviationError(f"{where}: {name} is there and not whole")
                if left.slots["B"].hex() != self.builds.contents.sha256:
                    raise DeviationError(f"{where}: {name} is there, and the partition of slot B is not whole")
        return left


def change(client: MachineClient) -> tuple[int, str]:
    """A durable change, and the state after it."""
    value = bytes(Random(time.monotonic_ns()).randrange(60) for _ in range(64))
    if not client.mutate([Dense(TENSOR, 0, value)], confidence=0.9, wait=True).durable:
        raise DeviationError("the machine takes no durable changes")
    return state(client)


def state(client: MachineClient) -> tuple[int, str]:
    """Generation and digest."""
    digest = client.digest([])
    return digest.generation, digest.model


def cut(builds: Builds, folder: Path, *, seed: int, subsets: int) -> Counter[str]:
    """Judge every crash state of an update. Raises DeviationError."""
    oracle = Oracle(builds)
    disk = disk_with_slot_a(builds.image, folder / "cut.img", builds.old)
    before, log = folder / "before.img", folder / "log"
    shutil.copyfile(disk, before)
    log.touch()
    layers = {
        "driver": "blklogwrites",
        "log": {"driver": "file", "filename": str(log)},
        "log-append": False,
    }
    with running(machine_of(disk, layers=layers), folder / "cut-run") as machine, client_of(machine) as client:
        changed = change(client)
        builds.update(client)
    judged = 0
    with before.open("r+b") as file, mmap(file.fileno(), 0) as image:
        for epoch in read_log(log).images(image, Random(seed), subsets=subsets):
            judged += 1
            oracle.judge(before, f"state {judged}, in epoch {epoch}")
    left = oracle.judge(disk, "the whole update")
    if left.starts() != "B":
        raise DeviationError("the update was made, and slot B is not started next")
    with running(machine_of(disk), folder / "cut-after") as machine, client_of(machine) as client:
        if state(client) != changed:
            raise DeviationError("the change made before the update is lost")
    oracle.counted["states"] = judged
    return oracle.counted


def sectors_of(disk: Path, builds: Builds) -> dict[str, int]:
    """A sector that each step of an update of slot B writes, in the order of the steps."""
    with disk.open("rb") as file:
        opened = open_disk(file, size=disk.stat().st_size)
        esp, slot = opened.esp_partition.start, opened.slots["B"].start
        file.seek(esp)
        boot = file.read(512)
        reserved, fat = int.from_bytes(boot[14:16], "little"), int.from_bytes(boot[36:40], "little")
        file.seek(esp)
        whole = file.read(opened.esp_partition.size)
    settings = whole.index(b"timeout 0\neditor no\ndefault vb-")
    entries = next(
        at for at in range((reserved + 2 * fat) * 512, len(whole), 512) if b"VB-A" in whole[at : at + 512]
    )  # fmt: skip
    last = slot + builds.contents.size - 4096
    return {
        _SLOT_START: slot // 512,
        _SLOT_END: last // 512,
        _FAT: esp // 512 + reserved + 300,
        _FOLDER: (esp + entries) // 512,
        _SETTINGS: (esp + settings) // 512,
    }


def fail(builds: Builds, folder: Path) -> Counter[str]:
    """Let writes to one sector of each step fail once. Raises DeviationError."""
    oracle = Oracle(builds)
    disk = disk_with_slot_a(builds.image, folder / "fail.img", builds.old)
    sectors = sectors_of(disk, builds)
    errors = [
        {"event": "pwritev", "iotype": "write", "sector": sector, "errno": 5, "once": True}
        for sector in sectors.values()
    ]
    layers = {"driver": "blkdebug", "inject-error": errors}
    with running(machine_of(disk, layers=layers), folder / "fail-run") as machine, client_of(machine) as client:
        before = change(client)
        for attempt in range(len(sectors) + 2):
            try:
                builds.update(client)
            except RequestRefusedError as refusal:
                if refusal.code != Code.UPDATE_FAILED:
                    raise
                oracle.counted[f"refused: {refusal.data.get('reason') if refusal.data else None}"] += 1
                oracle.judge(disk, f"attempt {attempt}")
                print(f"error: {refusal}", flush=True)
                continue
            break
        else:
            raise DeviationError("every update failed, though each sector fails once")
        if state(client) != before:
            raise DeviationError("the change made before the update is lost")
    if oracle.judge(disk, "the update after the errors").starts() != "B":
        raise DeviationError("the update was made, and slot B is not started next")
    return oracle.counted


def kill(builds: Builds, folder: Path, *, seed: int, kills: int) -> Counter[str]:
    """SIGKILL for QEMU at random moments. Raises DeviationError."""
    oracle, random = Oracle(builds), Random(seed)
    disk = disk_with_slot_a(builds.image, folder / "kill.img", builds.old)
    expected: tuple[int, str] | None = None
    for number in range(kills):
        fresh = folder / "fresh.img"
        with running(machine_of(disk), folder / f"kill-run-{number}") as machine, client_of(machine) as client:
            if expected is not None and state(client) != expected:
                raise DeviationError(f"kill {number}: the last change is lost")
            expected = change(client)
            shutil.copyfile(disk, fresh)
            timer = threading.Timer(random.uniform(0.1, 8), os.kill, (machine.pid, signal.SIGKILL))
            timer.start()
            with suppress(VbootError):
                builds.update(client)
                oracle.counted["updates that were done"] += 1
            timer.cancel()
        left = oracle.judge(disk, f"kill {number}")
        if left.starts() == "B":  # back to the old build, with the state of now
            with disk.open("r+b") as file:
                opened = open_disk(file, size=disk.stat().st_size)
                text = opened.esp.read("loader/loader.conf")
                file.seek(opened.esp_partition.start)
                whole = file.read(opened.esp_partition.size)
                file.seek(opened.esp_partition.start + whole.index(text) + text.index(b"default vb-") + 11)
                file.write(b"a")
    oracle.counted["kills"] = kills
    return oracle.counted


def say(part: str, counted: Counter[str]) -> None:
    """Print what happened."""
    print(f"{part}: " + ", ".join(f"{count} {what}" for what, count in sorted(counted.items())), flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.update_cuts", description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("build/test/tiny"), help="a built image (build/test/tiny)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do (all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--subsets", type=int, default=3, help="random losses of sectors for each flush (3)")
    parser.add_argument("--kills", type=int, default=6, help="machines that are killed during an update (6)")
    parser.add_argument("--run", type=Path, help="folder for disks and run folders (a temporary one)")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="vboot-update-") as temporary:
        folder = arguments.run or Path(temporary)
        folder.mkdir(exist_ok=True)
        builds = make_builds(arguments.image.resolve(), folder)
        try:
            if "cut" in arguments.parts:
                say("cut", cut(builds, folder, seed=arguments.seed, subsets=arguments.subsets))
            if "error" in arguments.parts:
                say("error", fail(builds, folder))
            if "kill" in arguments.parts:
                say("kill", kill(builds, folder, seed=arguments.seed, kills=arguments.kills))
        except DeviationError as error:
            print(f"DEVIATION: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
