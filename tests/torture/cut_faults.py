"""Failing disks: the guest's write or flush of each number fails, once or from then on, and changes must stop.

    python -m tests.torture.cut_faults [--calls 20] [--seed 1] [--image build/test/tiny]

Level F of docs/proof.md, with QEMU's blkdebug. After the error every change is refused (1015), also by the next worker;
reading goes on. After the next boot everything that was acknowledged is there, and changes are accepted again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.torture.cut_bodies import Booted, failing_call
from tests.torture.cut_draws import draw_change
from tests.torture.cut_jobs import shown
from tests.torture.cut_line import CutLine
from tests.torture.cut_oracle import Change, Oracle
from tests.torture.cuts import STATE_BYTES, result, weights
from tests.torture.expectation import DeviationError
from vboot.journal.pages import Model
from vboot.protocol.tables import Code

_CHANGES = 40
_AFTERWARDS = 5


@dataclass
class FaultRun:
    """Machines on new devices, each with one call that fails. `counted`: what happened."""

    folder: Path
    image: Path
    random: Random
    counted: Counter[str] = field(default_factory=Counter)

    def fail(self, kind: str, number: int, *, once: bool) -> bool:
        """One device whose write or flush of this number fails; whether it did. Raises DeviationError."""
        state = self.folder / "state.img"
        with state.open("wb") as file:
            file.truncate(STATE_BYTES)
        self.oracle = Oracle(weights(Model(self.image / "vectorland.gguf")))
        body = Booted(self.folder, self.image, state, faults=failing_call(kind, number, once=once))
        failed = self._until_it_fails(body)
        self.counted[f"{kind} {'once' if once else 'for ever'}" if failed else "not reached"] += 1
        self._after_the_next_boot(Booted(self.folder, self.image, state))
        return failed

    def _until_it_fails(self, body: Booted) -> bool:
        try:
            line = CutLine(body.start(), alive=body.alive)
            hello = result(line.ask(Change("hello", {"protocol": 1, "client": "faults"})))
            failed = not hello["durable"] or self._change(line)
            if failed:
                self._refuses(line)
                line.ask(Change("fault", {"what": "segv"}))
                self._refuses(line)
            line.close()
            return failed
        finally:
            body.kill()

    def _change(self, line: CutLine) -> bool:
        """Send changes, several at a time, until one is refused because the journal failed; whether one was."""
        for _ in range(_CHANGES):
            for _ in range(self.random.randint(1, 4)):
                change = draw_change(self.random, self.oracle.head)
                self.oracle.sent(change)
                line.send(change)
            waiting = list(self.oracle.pending)
            replies = _replies(line, len(waiting))
            for number, reply in enumerate(replies):
                if reply.get("error", {}).get("code") == Code.JOURNAL_FAILED:
                    self._all_refused(waiting[number:], replies[number:])
                    return True
                self.oracle.acknowledged(reply)
                self.counted["acknowledged"] += 1
        return False

    def _all_refused(self, waiting: Sequence[Change], replies: Sequence[Mapping[str, Any]]) -> None:
        for change, reply in zip(waiting, replies, strict=True):
            if change.method != "renew" and "result" in reply:
                raise DeviationError(f"after the error {change.method} was acknowledged: {reply}")

    def _refuses(self, line: CutLine) -> None:
        """Changes are refused, and the weights are those of the last acknowledged one."""
        for _ in range(_AFTERWARDS):
            change = draw_change(self.random, self.oracle.point)
            line.send(change)
            reply = _replies(line, 1)[0]
            if reply.get("error", {}).get("code") != Code.JOURNAL_FAILED:
                raise DeviationError(f"after the error {change.method} is answered {reply}, expected 1015")
            self.counted["refused"] += 1
        digest = result(line.ask(Change("digest", {"tensors": []})))
        if digest["model"] != self.oracle.point.digest:
            raise DeviationError(f"after the error the machine has {digest}, expected {self.oracle.point.digest}")

    def _after_the_next_boot(self, body: Booted) -> None:
        try:
            line = CutLine(body.start(), alive=body.alive)
            hello = result(line.ask(Change("hello", {"protocol": 1, "client": "faults"})))
            digest = result(line.ask(Change("digest", {"tensors": []})))
            if not hello["durable"]:
                raise DeviationError("the machine is not durable after the next boot")
            done = self.oracle.settle(hello["generation"], hello["promoted"], digest["model"])
            self.counted["refused and done"] += len(done)
            self.oracle.forget()
            change = draw_change(self.random, self.oracle.point)
            self.oracle.sent(change)
            line.send(change)
            self.oracle.acknowledged(_replies(line, 1)[0])
            line.close()
        finally:
            body.kill()


def _replies(line: CutLine, count: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    while len(found) < count:
        found += line.turn(0.2)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Let every call up to a number fail, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", type=Path, default=Path("build/test/tiny"))
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="cuts-"))
    run = FaultRun(folder, arguments.image, Random(arguments.seed))
    started = time.monotonic()
    for kind in ("write", "flush"):
        for number in range(1, arguments.calls + 1):
            for once in (True, False):
                try:
                    run.fail(kind, number, once=once)
                except DeviationError as error:
                    how = "once" if once else "for ever"
                    print(f"seed {arguments.seed}, {kind} {number} {how}: {error}; see {folder}", file=sys.stderr)
                    return 1
                print(f"{kind} {number}: {shown(run.counted)}", file=sys.stderr)
    shutil.rmtree(folder)
    print(f"seed {arguments.seed}: {shown(run.counted)}; 0 violations in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
