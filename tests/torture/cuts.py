"""Power cuts: a machine with a state device is killed at random moments, started again, and judged by its client's log.

    python -m tests.torture.cuts [--cuts 1000] [--seed 1] [--jobs 1] [--listen] [--image build/test/tiny]

Level D of docs/proof.md. The exit code is 1 at the first violation; its seed, the number of the cut and the folder with
the state file are printed.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

from builder.executable import executable_path
from tests.torture.cut_bodies import Body, Booted, Listening
from tests.torture.cut_draws import draw_change, draw_large
from tests.torture.cut_jobs import Place, Say, parser, run_jobs, shown
from tests.torture.cut_line import CutLine, LineBrokenError
from tests.torture.cut_oracle import Change, Oracle
from tests.torture.expectation import DeviationError, model_digest
from vboot.journal.device import Device
from vboot.journal.entries import Kind
from vboot.journal.pages import Model, Tensors
from vboot.journal.recovery import Log, recover
from vboot.journal.replay import newest, replay
from vboot.protocol.tables import BLOB_LIMIT, PROTECTED_TENSORS
from vboot.weights.arithmetic import TensorData

STATE_BYTES = 16 << 20
_WINDOW = 40
"""Below 64, the number of requests at which a machine stops reading."""
_RELOADS = 0.2
"""The share of the cuts during which the worker is replaced."""
_SENT_AGAIN = 3
"""How many changes without a reply are sent again after a cut."""
_LIFE_CUTS = 40
"""After so many cuts at most a new device is begun, so that formatting is cut too, and replays stay short."""
_FILLED = 0.5
"""The share of the devices that begin with a history, so that they are compacted soon."""
_REPLAYED_EVERY = 3
"""One boot of so many, and the last one of a device, is compared with a replay of the whole device in Python."""


@dataclass
class Campaign:
    """One device after another, cut after cut. `counted`: what happened. `filler`: gives devices a history, quickly."""

    body: Body
    filler: Body
    model: Model
    state: Path
    random: Random
    cuts: int
    counted: Counter[str] = field(default_factory=Counter)
    boot_s: float = 3.0
    predicted: tuple[int, str | None] = (0, None)
    start: int = 0
    boots: int = 0
    beside: Thread | None = None
    before_start: Callable[[], None] = lambda: None
    after_cut: Callable[[], None] = lambda: None

    def work(self, place: Place, say: Say) -> None:
        """Cut the power as often as is this job's share. Raises DeviationError."""
        cuts = place.share(self.cuts)
        while self.counted["cuts"] < cuts:
            self.begin_device(self.random.uniform(0.3, 0.95) if self.random.random() < _FILLED else 0.0)
            for _ in range(self.random.randint(3, _LIFE_CUTS)):
                self._cut_while_booting()
                self._cut_while_changing()
                say(shown(self.counted))
                if self.counted["cuts"] >= cuts:
                    break
            self._settled(self._boot(fully=True)).close()
            self.body.kill()

    def close(self) -> None:
        """End the machines."""
        self.body.kill()
        self.filler.kill()

    def begin_device(self, filled: float) -> None:
        """A new device, with a history that fills such a share of it."""
        with self.state.open("wb") as file:
            file.truncate(STATE_BYTES)
        self.oracle = Oracle(weights(self.model))
        self.counted["devices"] += 1
        self.start = 0
        if filled > 0:
            self._fill(filled)
            self.counted["devices with a history"] += 1

    def _fill(self, share: float) -> None:
        """Let large changes be made until so much of the log area is used, or it was compacted."""
        line = CutLine(self.filler.start(), alive=self.filler.alive)
        used = 0.0
        while used < share and self.start == 0:
            self._send(line, draw_large(self.random, self.oracle.head))
            while self.oracle.pending:
                self._take(line.turn(0.2))
            with Device(self.state) as device:
                log = recover(device)
            assert log.superblock is not None
            used = 1 - log.free_bytes / log.superblock.area_bytes
            self.start = log.superblock.start
        line.close()
        self.filler.kill()

    def _cut_while_booting(self) -> None:
        """Sometimes cut the power before the machine answers: it reads and repairs its state then."""
        while self.random.random() < 0.25:
            self.before_start()
            self.body.start()
            time.sleep(self.random.uniform(0.1, 1.0) * self.boot_s)
            self._cut()
            self.counted["cuts while booting"] += 1

    def _cut_while_changing(self) -> None:
        line = self._settled(self._boot())
        try:
            self._change(line)
        except LineBrokenError as error:
            raise DeviationError("the machine has ended by itself") from error
        self._cut()
        self._take_what_came(line)
        self.counted["unacknowledged"] += len(self.oracle.pending)

    def _cut(self) -> None:
        self.body.kill()
        self.counted["cuts"] += 1
        if self.beside is not None:
            self.beside.join()
            self.beside = None
        self.after_cut()

    def _boot(self, *, fully: bool = False) -> CutLine:
        self.boots += 1
        self.predicted = self._read_offline(fully=fully or self.boots % _REPLAYED_EVERY == 0)
        started = time.monotonic()
        self.before_start()
        line = CutLine(self.body.start(), alive=self.body.alive)
        self.boot_s = 0.8 * self.boot_s + 0.2 * (time.monotonic() - started)
        return line

    def _settled(self, line: CutLine) -> CutLine:
        """Compare the machine with the client's log, and with a replay of the device in Python."""
        hello = result(line.ask(Change("hello", {"protocol": 1, "client": "cuts"})))
        digest = result(line.ask(Change("digest", {"tensors": []})))
        if not hello["durable"]:
            raise DeviationError("the machine says that it is not durable")
        done = self.oracle.settle(hello["generation"], hello["promoted"], digest["model"])
        self.counted["unacknowledged and done"] += len(done)
        generation, model = self.predicted
        if generation != digest["generation"] or model not in (None, digest["model"]):
            raise DeviationError(
                f"a replay in Python gives generation and digest {self.predicted}, the machine has {digest}"
            )
        self._repeat(line, [change for change in (self.oracle.last, *done) if change is not None])
        return line

    def _read_offline(self, *, fully: bool) -> tuple[int, str | None]:
        """Generation to which the device leads, by the reader in Python; and digest, if `fully`, by a replay."""
        with Device(self.state) as device:
            log = recover(device)
            if log.fault is not None:
                raise DeviationError(f"the reader in Python finds {log.fault.reason}: {log.fault}")
            _check_nonces(log)
            last = newest(log)
            start = log.superblock.start if log.superblock else 0
            self.counted["compacted"] += start > self.start
            self.start = start
            self.counted["cut while compacting"] += bool(log.entries[1:]) and log.entries[-1].head.kind == Kind.IMAGE
            on_trial = last.lease_until_us != 0
            if not fully:
                return last.generation + on_trial, None
            self.counted["replayed in Python"] += 1
            weights = replay(self.model, log, wanted=last.promoted if on_trial else None)
        tensors = Tensors(self.model, weights.contents)
        sha256 = {
            name: hashlib.sha256(tensors[name].data).digest() for name in tensors if name not in PROTECTED_TENSORS
        }
        return last.generation + on_trial, model_digest(sha256)

    def _repeat(self, line: CutLine, done: Sequence[Change]) -> None:
        """Send changes again that were done before the cut: the machine knows their ids and gives the old reply."""
        for change in done[-2:]:
            if "id" not in change.params:
                continue
            line.send(change)
            given = result(_one(line))
            is_old = given.get("replayed") is True or given.get("promoted") == change.params.get("generation")
            if not is_old:
                raise DeviationError(f"{change.method} with the id of one that was done before is answered {given}")
            self.counted["repeated"] += 1

    def _change(self, line: CutLine) -> None:
        """Send changes, first those again that were lost, and return at a random moment."""
        oracle = self.oracle
        lost = [change for change in oracle.forget() if change.method == "mutate"][:_SENT_AGAIN]
        for change in lost:
            self._send(line, change)
        planned = self.random.randint(1, 60)
        last_reply = self.random.randint(0, planned)
        seconds = self.random.choice((60.0, self.random.uniform(0, 0.5)))
        if self.random.random() < _RELOADS:
            self.beside = Thread(target=self._reload, daemon=True)
            self.beside.start()
            planned = last_reply = 1000
            seconds = self.random.uniform(0.5, 15)
        deadline = time.monotonic() + seconds
        sent = answered = 0
        while answered < last_reply + len(lost) and time.monotonic() < deadline:
            while sent < planned and len(oracle.pending) < _WINDOW:
                self._send(line, draw_change(self.random, oracle.head))
                sent += 1
            if not oracle.pending:
                break
            answered += self._take(line.turn(0.2))
        time.sleep(self.random.choice((0, self.random.uniform(0, 0.01))))

    def _reload(self) -> None:
        """On a connection of its own, replace the worker by one of the same executable; the power goes meanwhile."""
        upload, program = f"{id(self):032x}", executable_path().read_bytes()
        with (
            suppress(LineBrokenError, DeviationError, OSError),
            closing(CutLine(self.body.second_socket(), alive=self.body.alive)) as line,
        ):
            for at in range(0, len(program), BLOB_LIMIT):
                params = {"upload": upload, "offset": at, "total": len(program)}
                line.ask(Change("upload", params, program[at : at + BLOB_LIMIT]))
            self.counted["reloads begun"] += 1
            reply = line.ask(Change("reload", {"what": "binary"}), upload=upload)
            self.counted["reloads done" if "result" in reply else "reloads refused"] += 1

    def _send(self, line: CutLine, change: Change) -> None:
        self.oracle.sent(change)
        line.send(change)
        self.counted["sent"] += 1

    def _take(self, replies: Sequence[Mapping[str, Any]]) -> int:
        for reply in replies:
            self.oracle.acknowledged(reply)
            code = reply.get("error", {}).get("code")
            self.counted["acknowledged" if code is None else f"refused with {code}"] += 1
        return len(replies)

    def _take_what_came(self, line: CutLine) -> None:
        """Replies that were on their way when the power was cut count as acknowledged."""
        try:
            while self._take(line.turn(0.05)):
                pass
        except LineBrokenError:
            pass
        line.close()


def _check_nonces(log: Log) -> None:
    """Each boot has drawn a number of its own: one that goes on from a snapshot must not have those of the last one."""
    boots = {(frame.nonce, frame.boot) for frame in log.frames}
    if len({nonce for nonce, _ in boots}) < len(boots):
        raise DeviationError(f"two boots have the same nonce: {sorted(boot for _, boot in boots)}")


def _one(line: CutLine) -> Mapping[str, Any]:
    while True:
        replies = line.turn(0.2)
        if replies:
            return replies[0]


def weights(model: Model) -> dict[str, TensorData]:
    """The tensors that may change, as they are in the model."""
    tensors = Tensors(model, {})
    names = [name for name in tensors if name not in PROTECTED_TENSORS]
    return {name: replace(tensors[name], data=bytes(tensors[name].data)) for name in names}


def result(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a reply. Raises DeviationError if it is a refusal."""
    if "result" not in reply:
        raise DeviationError(f"a request was refused: {reply}")
    return dict(reply["result"])


def campaign(folder: Path, image: Path, *, seed: int, cuts: int, listen: bool = False) -> Campaign:
    """A campaign in `folder` with the machine of an image."""
    state, model = folder / "state.img", image / "vectorland.gguf"
    on_host = Listening(folder, model, state)
    body = on_host if listen else Booted(folder, image, state)
    return Campaign(body, on_host, Model(model), state, Random(seed), cuts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run campaigns, and print what happened."""
    options = parser(__doc__)
    options.add_argument("--cuts", type=int, default=1000)
    options.add_argument(
        "--listen", action="store_true", help="kill `vector_boot --listen` instead of QEMU: much faster"
    )
    given = options.parse_args(argv)

    def make(folder: Path, seed: int) -> Campaign:
        return campaign(folder, given.image, seed=seed, cuts=given.cuts, listen=given.listen)

    return run_jobs(make, seed=given.seed, jobs=given.jobs)


if __name__ == "__main__":
    sys.exit(main())
