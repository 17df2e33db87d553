"""Power cuts: a machine with a state device is killed at random moments, started again, and judged by its client's log.

    python -m tests.torture.cuts [--cuts 1000] [--seed 1] [--listen] [--image build/test/tiny]

Level D of docs/proof.md. The exit code is 1 at the first violation; its seed and the state file are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
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
from tests.torture.cut_draws import draw_change
from tests.torture.cut_line import CutLine, LineBrokenError
from tests.torture.cut_oracle import Change, Oracle
from tests.torture.expectation import DeviationError, model_digest
from vboot.journal.device import Device
from vboot.journal.pages import Model, Tensors
from vboot.journal.recovery import recover
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


@dataclass
class Campaign:
    """One device after another, cut after cut. `counted`: what happened."""

    body: Body
    model: Model
    state: Path
    random: Random
    counted: Counter[str] = field(default_factory=Counter)
    boot_s: float = 3.0
    predicted: tuple[int, str] = (0, "")
    start: int = 0
    beside: Thread | None = None
    before_start: Callable[[], None] = lambda: None
    after_cut: Callable[[], None] = lambda: None

    def run(self, cuts: int, *, say: Callable[[str], None] = lambda _text: None) -> None:
        """Cut the power so many times. Raises DeviationError."""
        started = time.monotonic()
        while self.counted["cuts"] < cuts:
            self._begin_device()
            for _ in range(self.random.randint(3, _LIFE_CUTS)):
                self._cut_while_booting()
                self._cut_while_changing()
                say(f"{time.monotonic() - started:.0f} s: {shown(self.counted)}")
                if self.counted["cuts"] >= cuts:
                    break
            self._settled(self._boot()).close()
            self.body.kill()

    def _begin_device(self) -> None:
        with self.state.open("wb") as file:
            file.truncate(STATE_BYTES)
        self.oracle = Oracle(weights(self.model))
        self.counted["devices"] += 1

    def _cut_while_booting(self) -> None:
        """Sometimes cut the power before the machine answers: it reads and repairs its state then."""
        while self.random.random() < 0.25:
            self.before_start()
            self.body.start()
            time.sleep(self.random.uniform(0.3, 1.0) * self.boot_s)
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

    def _boot(self) -> CutLine:
        self.predicted = self._read_offline()
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
        if self.predicted != (digest["generation"], digest["model"]):
            raise DeviationError(
                f"a replay in Python gives generation and digest {self.predicted}, the machine has {digest}"
            )
        self._repeat(line, [change for change in (self.oracle.last, *done) if change is not None])
        return line

    def _read_offline(self) -> tuple[int, str]:
        """Generation and digest to which the device leads, by the reader in Python and the twin."""
        with Device(self.state) as device:
            log = recover(device)
            if log.fault is not None:
                raise DeviationError(f"the reader in Python finds {log.fault.reason}: {log.fault}")
            last = newest(log)
            start = log.superblock.start if log.superblock else 0
            self.counted["starts moved"] += start > self.start
            self.start = start
            on_trial = last.lease_until_us != 0
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


def shown(counted: Counter[str]) -> str:
    """What happened, in words."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))


def campaign(folder: Path, image: Path, *, seed: int, listen: bool) -> Campaign:
    """A campaign in `folder` with the machine of an image."""
    state, model = folder / "state.img", image / "vectorland.gguf"
    body = Listening(folder, model, state) if listen else Booted(folder, image, state)
    return Campaign(body, Model(model), state, Random(seed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--listen", action="store_true", help="kill `vector_boot --listen` instead of QEMU: much faster"
    )
    parser.add_argument("--image", type=Path, default=Path("build/test/tiny"))
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="cuts-"))
    run = campaign(folder, arguments.image, seed=arguments.seed, listen=arguments.listen)
    started = time.monotonic()
    try:
        run.run(arguments.cuts, say=lambda text: print(text, file=sys.stderr))
    except DeviationError as error:
        print(f"seed {arguments.seed}, cut {run.counted['cuts']}: {error}; the state is {run.state}", file=sys.stderr)
        return 1
    finally:
        run.body.kill()
    shutil.rmtree(folder)
    print(f"seed {arguments.seed}: {shown(run.counted)}; 0 violations in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
