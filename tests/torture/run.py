"""Runs cycles against a machine and stops at the first reply or byte that differs from the prediction."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.local_machine import LocalMachine, local_machine
from tests.torture.draws import Cycle, Draft, draw_cycle
from tests.torture.expectation import NOT_KEPT, DeviationError, Request, check
from tests.torture.model import gguf_bytes, tensors
from tests.torture.tally import Tally
from tests.torture.twin import LONG_LEASE_MS, Twin
from tests.torture.wire import Answer, ConnectionLostError, Wire
from vboot.weights.arithmetic import TensorData
from vboot.weights.edits import Dense

EPOCH = 256
"""Number of cycles after which the weights are reset to the model file; a run can be repeated from there."""

_SHORT_LEASE_MS = 8
_EXPIRY_SECONDS = 10.0
_GOOD_LIFE_SECONDS = 1.1
"""If workers die faster than this one after the other, the machine discards all changes as the likely cause."""
_CHOICES = 1 << 16


@dataclass(frozen=True)
class TorturePlan:
    """What to run: cycles `first` to `first + cycles`, or as many as `seconds` allow (None: no limit)."""

    seed: int
    first: int = 0
    cycles: int | None = None
    seconds: float | None = None


class CycleFailedError(Exception):
    """A deviation. Attributes: `cycle`, `why`."""

    def __init__(self, cycle: int, why: str) -> None:
        super().__init__(f"cycle {cycle}: {why}")
        self.cycle = cycle
        self.why = why


def torture(
    folder: Path,
    plan: TorturePlan,
    *,
    model: Mapping[str, TensorData] | None = None,
    on_progress: Callable[[Tally], None] = lambda _tally: None,
) -> Tally:
    """Run a plan on a new machine in `folder`. `model`: the expected tensors. Raises CycleFailedError."""
    held = tensors(plan.seed)
    path = folder / "torture.gguf"
    path.write_bytes(gguf_bytes(held))
    with local_machine(folder, "--fault", "--energy", "off", model=path) as machine:
        run = _Run(plan.seed, held if model is None else model, machine)
        try:
            return _cycles(run, plan, on_progress)
        except ConnectionLostError:
            cycles = [request.cycle for request in run.wire.waiting] or [run.cycle]
            why = f"the machine closed the connection, {len(cycles)} requests up to cycle {cycles[-1]} had no reply yet"
            raise CycleFailedError(cycles[0], why) from None
        except DeviationError as deviation:
            raise CycleFailedError(run.cycle, str(deviation)) from deviation
        finally:
            run.wire.close()


def _cycles(run: _Run, plan: TorturePlan, on_progress: Callable[[Tally], None]) -> Tally:
    started = time.monotonic()
    number = plan.first - plan.first % EPOCH
    end = plan.first + plan.cycles if plan.cycles is not None else None
    while end is None or number < end:
        if plan.seconds is not None and time.monotonic() - started > plan.seconds:
            break
        if number % EPOCH == 0:
            run.start_epoch(number)
        run.perform(draw_cycle(plan.seed, number, run.twin.tensors))
        number += 1
        if number % EPOCH == 0:
            on_progress(run.tally)
    run.start_epoch(number)
    run.wire.drain()
    return run.tally


@dataclass
class _Run:
    """A running torture test: the machine, its twin, and their common position."""

    seed: int
    model: Mapping[str, TensorData]
    machine: LocalMachine
    tally: Tally = field(default_factory=Tally)
    cycle: int = 0
    base: int = 0
    last_death: int = 0
    born: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.twin = Twin(self.model, run=self.seed & 0xFFFF_FFFF)
        self.wire = Wire(self.machine.socket, self._judge, check_alive=self._check_alive)

    def start_epoch(self, number: int) -> None:
        """Roll back to the weights of the model file; read and compare all of them."""
        self.cycle = number
        self._return_to(number, self.base)
        self.base = self.twin.generation
        for name in self.twin.tensors:
            self.wire.submit(self.twin.read(number, name))
        self.wire.submit(self.twin.hello(number))

    def perform(self, cycle: Cycle) -> None:
        """Run one cycle."""
        start = self.twin.generation
        if cycle.trial == "expire":
            self._expire(cycle)
        elif cycle.disturbance:
            self._disturbed(cycle)
        else:
            for request in self._requests(cycle):
                self.wire.submit(request)
        if cycle.trial == "promote" and self.twin.on_trial:
            self.wire.submit(self.twin.renew(cycle.number))
            self.wire.submit(self.twin.promote(cycle.number))
            self.tally.events["promotions"] += 1
        if cycle.detour:
            here = self.twin.generation
            self._return_to(cycle.number, max(self.twin.oldest, here - cycle.detour))
            self.wire.submit(self.twin.digest(cycle.number))
            self._return_to(cycle.number, here)
        for name in cycle.reading:
            self.wire.submit(self.twin.read(cycle.number, name))
        if cycle.checkpoint:
            self.wire.submit(self.twin.checkpoint(cycle.number))
            self.tally.events["checkpoints"] += 1
        if not cycle.kept:
            self._return_to(cycle.number, start)
        self.wire.submit(self.twin.digest(cycle.number))
        self.tally.cycles += 1

    def _requests(self, cycle: Cycle) -> list[Request]:
        """Send the mutations of a cycle without waiting for replies."""
        earlier: Request | None = None
        requests: list[Request] = []
        for draft in cycle.drafts:
            lease_ms = LONG_LEASE_MS if cycle.trial and not requests else None
            request = self._mutate(cycle, draft, earlier, lease_ms)
            requests.append(request)
            earlier = earlier if request.code else request
        return requests

    def _mutate(self, cycle: Cycle, draft: Draft, earlier: Request | None, lease_ms: int | None) -> Request:
        defect = draft.defect
        request = self.twin.mutate(cycle.number, draft.edits, defect=defect, lease_ms=lease_ms, earlier=earlier)
        if request.code:
            self.tally.refusals[request.code] += 1
        elif request.result and request.result["replayed"]:
            self.tally.events["replays"] += 1
        else:
            self.tally.note_edits(draft.edits)
            self.tally.events["trials"] += lease_ms is not None
        return request

    def _expire(self, cycle: Cycle) -> None:
        """Let a trial expire without promoting it."""
        self.wire.drain()
        request = self._mutate(cycle, cycle.drafts[0], None, _SHORT_LEASE_MS)
        self.wire.submit(request)
        self.wire.drain()
        if not self.twin.on_trial:
            return
        self.twin.expire()
        self.tally.events["expiries"] += 1
        hello = self.twin.hello(cycle.number)
        until = time.monotonic() + _EXPIRY_SECONDS
        while True:
            answer = self.wire.ask(hello)
            current = answer[0].get("result", {}).get("generation")
            if current == self.twin.generation or time.monotonic() > until:
                break
            time.sleep(_SHORT_LEASE_MS / 1000)
        self._judge(hello, answer)

    def _disturbed(self, cycle: Cycle) -> None:
        """Kill the worker, or disconnect in the middle of a message, while requests are unanswered."""
        worker = self.wire.ask(Request(cycle.number, "stats", {}))[0]["result"]["worker"]["pid"]
        if cycle.disturbance != "cut":
            time.sleep(max(0.0, self.born + _GOOD_LIFE_SECONDS - time.monotonic()))
        *requests, last = self._requests(cycle)
        # The moment is drawn from the number, too; it is as repeatable as timing allows.
        share = (cycle.number * 40503 % _CHOICES) / _CHOICES
        try:
            for request in requests:
                self.wire.submit(request)
            if cycle.disturbance == "cut":
                self.wire.hold_back(last)
                self.wire.cut(share)
            else:
                self.wire.submit(last)
                self._kill(cycle, worker, share)
                self.wire.await_loss()
        except ConnectionLostError:
            pass  # it died before all was sent
        self.wire.resume()
        self.wire.drain()
        if cycle.disturbance == "cut":
            self.tally.events["disconnects"] += 1
        else:
            self.tally.events["worker deaths"] += 1
            self.last_death = self.twin.generation
            self.born = time.monotonic()

    def _kill(self, cycle: Cycle, worker: int, share: float) -> None:
        if cycle.disturbance == "segv":
            self.wire.post("fault", {"what": "segv"})
        else:
            time.sleep(share / 1000)
            os.kill(worker, signal.SIGKILL)

    def _return_to(self, cycle: int, to: int) -> None:
        """Roll back. If the worker no longer has the generation after its death, write the bytes instead."""
        wanted = self.twin.state(to)
        request = self.twin.rollback(cycle, to)
        self.tally.events["rollbacks"] += 1
        if to > self.last_death or self.last_death == 0:
            self.wire.submit(request)
            return
        answer = self.wire.ask(request)
        if answer[0].get("error", {}).get("code") != NOT_KEPT:
            self._judge(request, answer)
            return
        self.tally.events["generations no longer kept"] += 1
        self.twin.undo_rollback()
        state = self.twin.state()
        edits = [Dense(name, 0, data) for name, data in wanted.data.items() if data != state.data[name]]
        if edits:
            self.wire.submit(self.twin.mutate(cycle, edits))
        if self.twin.on_trial:
            self.wire.submit(self.twin.promote(cycle))

    def _judge(self, request: Request, answer: Answer) -> None:
        self.cycle = request.cycle
        check(request, *answer, self.twin.state)
        if request.method == "mutate" and not request.code and request.result:
            self.tally.bytes_compared += sum(len(self.twin.tensors[name].data) for name in request.result["sha256"])
        elif request.method == "read":
            self.tally.bytes_compared += request.params["bytes"]
        elif request.method == "digest":
            self.tally.events["model digests compared"] += 1

    def _check_alive(self) -> None:
        if self.machine.process.wait(0):
            raise DeviationError("the machine has ended")
