"""`python -m tests.torture.reloads [--reloads N] [--state]`: a machine that clients use is reloaded again and again.

One client asks for the reloads, one after another, each of an executable with another digest. A second one makes
changes, several on the way at a time; a third one counts the beats. Nothing may be lost, repeated or
answered out of order, no beat may be missing, and in the end the weights must be those that the changes make on a
machine that was never reloaded. The distribution of the gaps is printed; the exit code is 1 at the first deviation.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.executable import executable_path
from tests.support.evolution_port.frames import encode
from tests.support.listening import PATIENCE, Listening, listening, result
from tests.support.local_machine import tiny_model
from tests.support.reloading import another, build, reload
from tests.torture.expectation import DeviationError

_STATE_BYTES = 64 << 20
_ON_THE_WAY = 8
"""Requests that the client which changes the weights has on the way at a time."""
_PAUSE_S = 0.002
"""Between two of its requests: a new worker makes all changes again, and the host may be slow."""
_OPTIONS = ("--energy", "off", "--heartbeat-ms", "20", "--reload-probation-ms", "20")
_TENSOR = "blk.0.ffn_up.bias"


@dataclass(frozen=True)
class Report:
    """The gaps of all reloads in microseconds, shortest first; the worst lateness of a beat; changes made meanwhile."""

    gaps_us: tuple[int, ...]
    late_us: int
    beats: int
    changes: int

    def text(self) -> str:
        def gap(share: float) -> str:
            return f"{self.gaps_us[min(len(self.gaps_us) - 1, int(len(self.gaps_us) * share))] / 1000:.2f}"

        return (
            f"{len(self.gaps_us)} reloads, gap in ms: p50 {gap(0.5)}, p99 {gap(0.99)}, worst {gap(1)}; "
            f"{self.beats} beats, none missed, the latest by {self.late_us / 1000:.2f} ms; "
            f"{self.changes} changes meanwhile"
        )


@dataclass
class Changes:
    """A client that changes one element without a pause. Stopped, it has the reply to every request."""

    machine: Listening
    made: int = 0
    problem: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            with self.machine.raw() as stream, stream.makefile("rb") as replies:
                self._run(stream, replies)
        except (OSError, ValueError, DeviationError) as error:
            self.problem = f"the client that changes weights: {error!r}"

    def stop(self) -> None:
        self._stop.set()

    def _run(self, stream: socket.socket, replies: Any) -> None:
        json.loads(replies.readline())  # the greeting
        sent = answered = 0
        while sent > answered or not self._stop.is_set():
            if sent - answered < _ON_THE_WAY and not self._stop.is_set():
                sent += 1
                stream.sendall(encode(change(sent)))
                continue
            answered += 1
            self._stop.wait(_PAUSE_S)
            reply = json.loads(replies.readline())
            if reply.get("id") != answered or reply.get("result", {}).get("generation") != answered:
                raise DeviationError(f"change {answered} was answered {reply}")
            if reply["result"]["replayed"]:
                raise DeviationError(f"change {answered} had been made before")
        self.made = answered


def change(number: int) -> dict[str, Any]:
    """The request that makes generation `number`."""
    edit = {
        "kind": "seeded",
        "tensors": _TENSOR,
        "seed": f"{number:016x}",
        "form": "normal",
        "density": 0.5,
        "scale": 0.1,
    }
    params = {"id": f"{number:032x}", "base_generation": number - 1, "confidence": 0.9, "edits": [edit]}
    return {"jsonrpc": "2.0", "id": number, "method": "mutate", "params": params}


def torture(reloads: int, folder: Path, *, on_device: bool) -> Report:
    """Reload a machine so often. Raises DeviationError."""
    executable, model = executable_path(), tiny_model()
    options = list(_OPTIONS)
    if on_device:
        state = folder / "state.img"
        with state.open("wb") as file:
            file.truncate(_STATE_BYTES)
        options += ["--state", str(state)]
    with listening(executable, model, folder, *options) as machine:
        changes = Changes(machine)
        thread = threading.Thread(target=changes.run)
        with machine.connect() as watcher:
            result(watcher, "subscribe", events=["heartbeat", "alert"])
            thread.start()
            try:
                gaps = _reload(machine, executable, reloads)
            finally:
                changes.stop()
                thread.join(PATIENCE)
            if changes.problem:
                raise DeviationError(changes.problem)
            stats = result(watcher, "stats")
            digest = result(watcher, "digest", tensors=[])
            beats = _beats(watcher.events)
    if digest["generation"] != changes.made or digest["model"] != _expected(executable, model, folder, changes.made):
        raise DeviationError(f"the weights are not those of {changes.made} changes: {digest}")
    return Report(tuple(sorted(gaps)), stats["heartbeat_late_us"]["max"], beats, changes.made)


def _reload(machine: Listening, executable: Path, reloads: int) -> list[int]:
    gaps = []
    with machine.connect() as port:
        for number in range(reloads):
            data = another(executable, number.to_bytes(4, "little"))
            reply = reload(port, data)
            if reply.result is None or reply.result["build"] != build(port):
                raise DeviationError(f"reload {number} was answered {reply}")
            gaps.append(reply.result["gap_us"])
    return gaps


def _beats(events: Sequence[dict[str, Any]]) -> int:
    """How many beats were told of. Raises DeviationError if one is missing or was told of twice, or for an alert."""
    told = [event["params"] for event in events if event.get("method") == "event"]
    numbers = [each["beats"] for each in told if each["kind"] == "heartbeat"]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise DeviationError("a beat is missing, or was told of twice")
    if any(each["kind"] == "alert" for each in told):
        raise DeviationError(f"there was an alert: {told}")
    return len(numbers)


def _expected(executable: Path, model: Path, folder: Path, changes: int) -> str:
    """The digest of the same changes on a machine that is not reloaded."""
    (folder / "calm").mkdir()
    with listening(executable, model, folder / "calm", "--energy", "off") as machine, machine.connect() as port:
        for number in range(1, changes + 1):
            result(port, "mutate", **change(number)["params"])
        return str(result(port, "digest", tensors=[])["model"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested reloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--state", action="store_true", help="keep the journal on a device")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vboot-reloads-") as folder:
        try:
            report = torture(arguments.reloads, Path(folder), on_device=arguments.state)
        except DeviationError as error:
            sys.stdout.write(f"deviation: {error}\n")
            return 1
    sys.stdout.write(report.text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
