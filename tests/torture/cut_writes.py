"""Power cuts with a log of every write: what the disk may hold then, not only what it held when QEMU was killed.

    python -m tests.torture.cut_writes [--cuts 100] [--seed 1] [--image build/test/tiny]

Level E of docs/proof.md. Killing QEMU loses nothing that the guest wrote, flushed or not. So QEMU's blklogwrites logs
writes and flushes, and the disk is judged as each prefix of the log leaves it, and each random part of the rest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.torture.cut_bodies import Booted
from tests.torture.cuts import Campaign, shown
from tests.torture.expectation import DeviationError
from tests.torture.readers import RustReader, compare
from tests.torture.write_log import WriteLog, read_log
from vboot.journal.device import Device
from vboot.journal.pages import Model
from vboot.journal.recovery import Log, recover

_SUBSETS = 3
_COMPARED = 0.02
"""The share of the states that the Rust reader reads too."""


class InMemory(Device):
    """A device in memory, whose contents may change from one reading to the next."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self.path = Path("memory")
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` on."""
        return bytes(self._data[offset : offset + size]).ljust(size, b"\0")

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Judge:
    """Keeps the disk as it was before each start, and judges the log of the writes after each cut."""

    campaign: Campaign
    log: Path
    rust: RustReader
    random: Random
    before: bytes = field(default=b"", repr=False)

    def before_start(self) -> None:
        """Keep the disk."""
        self.before = self.campaign.state.read_bytes()
        self.log.unlink(missing_ok=True)
        self.log.touch()

    def after_cut(self) -> None:
        """Judge every state. Raises DeviationError."""
        if self.log.stat().st_size == 0:
            return  # QEMU was killed before it opened the disk
        log = read_log(self.log)
        reached = self._reached(log)
        disk = bytearray(self.before)
        for epoch in log.images(disk, self.random, subsets=_SUBSETS):
            least, most = reached[epoch], reached[epoch + 1]
            found = recover(InMemory(disk))
            sequence = _next(found)
            if found.fault is not None or not least <= sequence <= most:
                self.campaign.state.with_suffix(".torn").write_bytes(disk)
                what = f"after {epoch} flushes: {found.fault}, {sequence} entries, expected {least} to {most}"
                raise DeviationError(f"{what}; the disk is {self.campaign.state.with_suffix('.torn')}")
            self.campaign.counted["states"] += 1
            if self.random.random() < _COMPARED:
                compare(self.rust, self.campaign.state.with_suffix(".read"), disk)
                self.campaign.counted["states read in Rust"] += 1
        self.campaign.counted["flushes"] += len(log.epochs) - 1

    def _reached(self, log: WriteLog) -> list[int]:
        """How many entries were ever written when the writes of so many epochs are there."""
        disk = bytearray(self.before)
        reached = [_next(recover(InMemory(disk)))]
        for writes in log.epochs:
            for write in writes:
                disk[write.offset : write.offset + len(write.data)] = write.data
            reached.append(_next(recover(InMemory(disk))))
        return reached


def _next(log: Log) -> int:
    """The sequence number of the next entry."""
    return len(log.entries) + (log.superblock.start_sequence if log.superblock else 0)


def logged_campaign(folder: Path, image: Path, rust: RustReader, *, seed: int) -> Campaign:
    """A campaign that judges every state between two flushes."""
    state, log = folder / "state.img", folder / "writes.log"
    body = Booted(folder, image, state, log=log)
    campaign = Campaign(body, Model(image / "vectorland.gguf"), state, Random(seed))
    judge = Judge(campaign, log, rust, Random(f"states {seed}"))
    campaign.before_start, campaign.after_cut = judge.before_start, judge.after_cut
    return campaign


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", type=Path, default=Path("build/test/tiny"))
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="cuts-"))
    started = time.monotonic()
    with RustReader() as rust:
        run = logged_campaign(folder, arguments.image, rust, seed=arguments.seed)
        try:
            run.run(arguments.cuts, say=lambda text: print(text, file=sys.stderr))
        except DeviationError as error:
            print(
                f"seed {arguments.seed}, cut {run.counted['cuts']}: {error}; the state is {run.state}", file=sys.stderr
            )
            return 1
        finally:
            run.body.kill()
    shutil.rmtree(folder)
    print(f"seed {arguments.seed}: {shown(run.counted)}; 0 violations in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
