"""Power cuts with a log of every write: what the disk may hold then, not only what it held when QEMU was killed.

    python -m tests.torture.cut_writes [--cuts 100] [--seed 1] [--jobs 1] [--image build/test/tiny]

Level E of docs/proof.md. Killing QEMU loses nothing that the guest wrote, flushed or not. So QEMU's blklogwrites logs
writes and flushes, and the disk is judged as each prefix of the log leaves it, and each random part of the rest.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from random import Random

from tests.torture.cut_bodies import Booted, Listening
from tests.torture.cut_jobs import parser, run_jobs
from tests.torture.cuts import Campaign
from tests.torture.expectation import DeviationError
from tests.torture.readers import RustReader, agreed
from tests.torture.write_log import WriteLog, read_log
from vboot.journal.pages import Model

_SUBSETS = 3
_COMPARED = 0.05
"""The share of the states that the Python reader reads too."""
_BLANK = "read_only"
"""Why the Rust reader, which may not write, refuses a device that is to be formatted."""


@dataclass
class Judge:
    """Keeps the disk as it was before each start, and judges the log of the writes after each cut."""

    campaign: Campaign
    log: Path
    rust: RustReader
    random: Random
    before: bytes = field(default=b"", repr=False)

    @property
    def read(self) -> Path:
        """The file whose contents are each state in turn."""
        return self.log.with_suffix(".read")

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
        with self._disk() as disk:
            for epoch in log.images(disk, self.random, subsets=_SUBSETS):
                least, most = reached[epoch], reached[epoch + 1]
                sequence = self._sequence(f"after {epoch} flushes")
                if not least <= sequence <= most:
                    raise self._violation(f"after {epoch} flushes: {sequence} entries, expected {least} to {most}")
                self.campaign.counted["states"] += 1
        self.campaign.counted["flushes"] += len(log.epochs) - 1

    def _reached(self, log: WriteLog) -> list[int]:
        """How many entries were ever written when the writes of so many epochs are there."""
        with self._disk() as disk:
            reached = [self._sequence("before the boot")]
            for number, writes in enumerate(log.epochs):
                for write in writes:
                    disk[write.offset : write.offset + len(write.data)] = write.data
                reached.append(self._sequence(f"with all writes before flush {number + 1}"))
        return reached

    def _disk(self) -> mmap:
        self.read.write_bytes(self.before)
        with self.read.open("r+b") as file:
            return mmap(file.fileno(), len(self.before))

    def _sequence(self, when: str) -> int:
        """The sequence number of the next entry of the state that `read` holds now."""
        if self.random.random() < _COMPARED:
            found = agreed(self.rust, self.read)
            self.campaign.counted["states read in Python too"] += 1
        else:
            found = self.rust.read(self.read)
        if found["reason"] == _BLANK:
            return 0
        if found["reason"] is not None:
            raise self._violation(f"{when}: {found}")
        return int(found["next_sequence"])

    def _violation(self, what: str) -> DeviationError:
        kept = self.campaign.state.with_suffix(".torn")
        shutil.copy(self.read, kept)
        return DeviationError(f"{what}; the disk is {kept}")


def logged_campaign(folder: Path, image: Path, rust: RustReader, *, seed: int, cuts: int) -> Campaign:
    """A campaign that judges every state between two flushes."""
    state, log, model = folder / "state.img", folder / "writes.log", image / "vectorland.gguf"
    body = Booted(folder, image, state, log=log)
    campaign = Campaign(body, Listening(folder, model, state), Model(model), state, Random(seed), cuts)
    judge = Judge(campaign, log, rust, Random(f"states {seed}"))
    campaign.before_start, campaign.after_cut = judge.before_start, judge.after_cut
    return campaign


def main(argv: Sequence[str] | None = None) -> int:
    """Run campaigns, and print what happened."""
    options = parser(__doc__)
    options.add_argument("--cuts", type=int, default=100)
    given = options.parse_args(argv)

    def make(folder: Path, seed: int) -> Campaign:
        return logged_campaign(folder, given.image, RustReader(), seed=seed, cuts=given.cuts)

    return run_jobs(make, seed=given.seed, jobs=given.jobs)


if __name__ == "__main__":
    sys.exit(main())
