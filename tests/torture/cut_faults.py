"""Failing disks: the guest's read, write or flush of each number fails, once or from then on, and changes must stop.

    python -m tests.torture.cut_faults [--calls 1000] [--seed 1] [--jobs 1] [--image build/test/tiny]

Level F of docs/proof.md, with QEMU's blkdebug. Two histories are scripted: on a blank device, and on one that is soon
compacted. After the error every change is refused (1015), also by the next worker; reading goes on. After the next boot
everything that was acknowledged is there, and changes are accepted again. `--calls` ends each series early.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Literal

from tests.torture.cut_bodies import Booted, Listening, failing_call
from tests.torture.cut_draws import draw_change, draw_large
from tests.torture.cut_jobs import Place, Say, parser, run_jobs, shown
from tests.torture.cut_line import CutLine
from tests.torture.cut_oracle import Change, Oracle, Point, golden
from tests.torture.cuts import STATE_BYTES, Campaign, result, weights
from tests.torture.expectation import DeviationError
from vboot.journal.pages import Model
from vboot.protocol.tables import Code

History = Literal["blank", "filled"]
_Draw = Callable[[Random, Point], Change]
_AFTERWARDS = 3
_FILLED = 0.7
"""The share of the log area that is used when the history on a filled device begins."""


def _rollback(random: Random, point: Point) -> Change:
    params = {"id": f"{random.getrandbits(128) | 1:032x}", "to": point.past[-2][0], "reason": "fault"}
    return Change("rollback", params, may_fail=True)


def _checkpoint(_random: Random, _point: Point) -> Change:
    return Change("checkpoint", {"label": "fault"}, may_fail=True)


_GROUP: tuple[_Draw, ...] = (draw_change,) * 4
_SCRIPTS: Mapping[History, Sequence[tuple[_Draw, ...]]] = {
    "blank": ((draw_change,), (draw_change,), _GROUP, (_rollback,), (_checkpoint,), (draw_large,), _GROUP),
    "filled": ((draw_large,), (draw_large,), (draw_large, draw_large), (_rollback,), _GROUP, (_checkpoint,)),
}
"""What is sent, together, before the next is."""


@dataclass
class FaultRun:
    """Machines on new devices, each with one call that fails. `counted`: what happened."""

    folder: Path
    image: Path
    seed: int
    calls: int = 1000
    counted: Counter[str] = field(default_factory=Counter)
    _body: Booted | None = None

    def __post_init__(self) -> None:
        self.model = Model(self.image / "vectorland.gguf")
        self.state = self.folder / "state.img"
        self.base = golden(weights(self.model)).digest

    def work(self, place: Place, say: Say) -> None:
        """Let every call of both histories fail, once and for ever. Raises DeviationError."""
        series: list[tuple[History, str]] = [
            (history, kind) for kind in ("write", "flush", "read") for history in ("blank", "filled")
        ]
        for history, kind in series[place.index :: place.jobs]:
            for number in count(1):
                both = [self.fail(history, kind, number, once=once) for once in (True, False)]
                say(f"{history}, {kind} {number}: {shown(self.counted)}")
                if not any(both) or number >= self.calls:
                    break

    def close(self) -> None:
        """End the machine."""
        if self._body is not None:
            self._body.kill()

    def fail(self, history: History, kind: str, number: int, *, once: bool) -> bool:
        """One device whose call of this number fails; whether there was such a call. Raises DeviationError."""
        self.random = Random(f"{self.seed} {history}")
        self.history = history
        self._begin(history)
        self.shown, self.unsure = self.oracle.point, 0
        how = f"{history}, {kind} {'once' if once else 'for ever'}"
        try:
            reached = self._until_it_fails(kind, failing_call(kind, number, once=once))
            self.counted[how if reached else "not reached"] += 1
            self._after_the_next_boot()
        except DeviationError as error:
            raise DeviationError(f"{how}, call {number}: {error}") from error
        return reached

    def _begin(self, history: History) -> None:
        """A device as at the beginning of the history."""
        kept = self.folder / "filled.img"
        if history == "filled" and not kept.exists():
            filler = Listening(self.folder, self.image / "vectorland.gguf", self.state)
            device = Campaign(filler, filler, self.model, self.state, Random(self.seed), cuts=0)
            device.begin_device(_FILLED)
            self._filled = device.oracle.point
            shutil.copy(self.state, kept)
        self.oracle = Oracle(weights(self.model))
        if history == "filled":
            shutil.copy(kept, self.state)
            self.oracle.point = self._filled
            return
        self.state.unlink(missing_ok=True)
        with self.state.open("wb") as file:
            file.truncate(STATE_BYTES)

    def _until_it_fails(self, kind: str, faults: Mapping[str, Any]) -> bool:
        body = self._started(faults)
        try:
            line = CutLine(body.start(), alive=body.alive)
            hello = result(line.ask(Change("hello", {"protocol": 1, "client": "faults"})))
            opened = bool(hello["durable"])
            failed = not opened or self._change(line)
            if failed:
                # A device that cannot be read gives no weights but those of the model.
                allowed = {self.shown.digest} if opened else {self.base}
                self._refuses(line, allowed)
                line.ask(Change("fault", {"what": "segv"}))
                self._refuses(line, allowed | {self.base} if kind == "read" else allowed)
            line.close()
            reached = body.failed_calls(kind) > 0
        finally:
            body.kill()
        if failed and not reached:
            raise DeviationError("changes are refused, and nothing has failed")
        if reached and not failed and kind != "read":
            raise DeviationError(f"a {kind} has failed, and changes are still accepted")
        self.counted["errors that stop changes"] += failed
        return reached

    def _started(self, faults: Mapping[str, Any] | None) -> Booted:
        self._body = Booted(self.folder, self.image, self.state, faults=faults, cold_every=0)
        return self._body

    def _change(self, line: CutLine) -> bool:
        """Send what the script says until a change is refused because the journal failed, or made and not durable.

        Returns whether one was. `shown`: what the machine then shows; the next boot may lack the `unsure` changes.
        """
        for together in _SCRIPTS[self.history]:
            for draw in together:
                change = draw(self.random, self.oracle.head)
                self.oracle.sent(change)
                line.send(change)
            waiting = list(self.oracle.pending)
            replies = _replies(line, len(waiting))
            for number, (change, reply) in enumerate(zip(waiting, replies, strict=True)):
                if reply.get("error", {}).get("code") == Code.JOURNAL_FAILED:
                    self._all_refused(waiting[number:], replies[number:])
                    return True
                if not self._is_unsure(change, reply):
                    self._acknowledge(reply)
            if self.unsure:
                return True
        return False

    def _is_unsure(self, change: Change, reply: Mapping[str, Any]) -> bool:
        """Whether it was made, and is said not to be durable: the compaction after it has failed."""
        after = change.applied(self.shown)
        if after is None or after.on_trial or reply.get("result", {}).get("durable") is not False:
            return False
        self.shown = after
        self.unsure += 1
        self.counted["made and not durable"] += 1
        return True

    def _acknowledge(self, reply: Mapping[str, Any]) -> None:
        if self.unsure:
            raise DeviationError(f"after a change that is not durable the machine answers {reply}")
        self.oracle.acknowledged(reply)
        self.shown = self.oracle.point
        self.counted["acknowledged"] += 1

    def _all_refused(self, waiting: Sequence[Change], replies: Sequence[Mapping[str, Any]]) -> None:
        for change, reply in zip(waiting, replies, strict=True):
            if change.method != "renew" and "result" in reply:
                raise DeviationError(f"after the error {change.method} was acknowledged: {reply}")

    def _refuses(self, line: CutLine, allowed: set[str]) -> None:
        """Changes are refused, and the weights have one of these digests."""
        for _ in range(_AFTERWARDS):
            change = draw_change(self.random, self.oracle.point)
            line.send(change)
            reply = _replies(line, 1)[0]
            if reply.get("error", {}).get("code") != Code.JOURNAL_FAILED:
                raise DeviationError(f"after the error {change.method} is answered {reply}, expected 1015")
            self.counted["refused"] += 1
        digest = result(line.ask(Change("digest", {"tensors": []})))
        if digest["model"] not in allowed:
            raise DeviationError(f"after the error the machine has {digest}, expected {' or '.join(allowed)}")

    def _after_the_next_boot(self) -> None:
        body = self._started(None)
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
    """Let every call fail, and print what happened."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=1000)
    given = options.parse_args(argv)

    def make(folder: Path, seed: int) -> FaultRun:
        return FaultRun(folder, given.image, seed, given.calls)

    return run_jobs(make, seed=given.seed, jobs=given.jobs)


if __name__ == "__main__":
    sys.exit(main())
