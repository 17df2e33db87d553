"""Keeps a running machine, the body, at the run's weights: each accepted move is applied, watched, and promoted.

The run's lineage is authoritative. After anything that happened to the body (killed, rebooted, lease expired) its
position in the lineage is determined, and it is brought to the end: move by move, or with all bytes when it is far
behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.daemon.body import MachineBody
from evolution.daemon.config import DaemonConfig
from evolution.daemon.events import (
    Acknowledged,
    Applied,
    Connected,
    DaemonEvent,
    Promoted,
    Recovered,
    RolledBack,
)
from evolution.daemon.reconcile import (
    ForeignWeightsError,
    Reference,
    Standing,
    changed_by,
    open_trial,
    origin_of,
    roll_back,
    standing,
    synchronise,
)
from evolution.daemon.run_state import Kind
from evolution.kernels.genome import EvolvedKernel
from vboot.client.machine import MachineClient
from vboot.protocol.errors import LinkLostError, MachineError, RequestRefusedError
from vboot.protocol.messages import Hello, PixelRun, Stats
from vboot.protocol.tables import Code
from vboot.weights.edits import Edit

INTERRUPT = 255
_REPLAYED_MOVES = 16
"""A body that is further behind gets the bytes of the changed tensors instead."""
_SYNCHRONISE_LEASE_MS = 600_000
_TRIAL_RETRY_MS = 1000
_TEXTS_AT_ONCE = 8
"""Texts embedded between two renewals of a lease."""


class BodyError(MachineError):
    """The body's results differ from the shadow's, or it cannot be used: retrying does not help."""


@dataclass(frozen=True)
class AcceptedMove:
    """An accepted move: its number from 1, its id, edits, confidence, and the digest of the weights after it."""

    number: int
    id: str
    kind: Kind
    edits: Sequence[Edit]
    confidence: float
    model: str


@dataclass(frozen=True)
class Course:
    """The run for a body that follows it: the digests after 0, 1, ... moves, the moves, and the current weights.

    watched: texts, and their embeddings by the current weights. probes: programs that call the current kernel, and the
    expected outputs.
    """

    run: str
    models: tuple[str, ...]
    step: Callable[[int], AcceptedMove]
    reference: Reference
    watched: Callable[[], tuple[Sequence[str], NDArray[np.float32]]]
    kernel: EvolvedKernel | None = None
    probes: Callable[[], Sequence[tuple[bytes, bytes]]] = tuple

    @property
    def moves(self) -> int:
        """The number of moves."""
        return len(self.models) - 1


class Follower:
    """Makes one body follow the run.

    Every method raises LinkLostError or MachineTimeoutError when the connection is lost: call `connect` again.
    """

    def __init__(self, body: MachineBody, config: DaemonConfig, tell: Callable[[DaemonEvent], None]) -> None:
        self._body = body
        self._config = config
        self._tell = tell
        self._machine: MachineClient | None = None
        self._seen: Standing | None = None
        self._is_new = True
        self._greeted: Hello | None = None
        self._lease_ms = config.lease_ms

    @property
    def name(self) -> str:
        """The body's name."""
        return self._body.name

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._machine is not None

    def connect(self) -> None:
        """Connect unless connected. Raises MachineError, InputError."""
        if self._machine is not None:
            return
        self._machine = self._body.open(self._config.connect_s)
        self._is_new = True
        hello = self._greeted = self._machine.greeted
        if hello.emergency is not None:
            self.disconnect()
            raise BodyError(f"{self.name} is in emergency mode: {hello.emergency}", remedy="boot a sound image")
        if hello.signed and self._machine.signer is None:
            self.disconnect()
            raise BodyError(f"{self.name} takes signed changes only", remedy="give --key FILE")
        model = self._machine.digest([]).model
        self._tell(Connected(self.name, hello.build, hello.generation, model))

    def disconnect(self) -> None:
        """End the connection; the body keeps running."""
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def stats(self) -> Stats:
        """The body's counts."""
        return self._connected.stats()

    def was_disturbed(self, generation: int) -> bool:
        """Whether the body, now at this generation, was changed by anything else than this daemon.

        Its worker may have been restarted under the same connection, or another client has changed its weights.
        """
        if self._connected.greeted is not self._greeted:
            self._greeted = self._connected.greeted
            self._is_new = True
            return True
        return self._seen is not None and generation != self._seen.generation

    def pulse(self, pixels: bytes) -> PixelRun:
        """Run a pixel program on the body."""
        return self._connected.execute_pixels(pixels)

    def follow(self, course: Course) -> None:
        """Bring the body to the run's current weights, promoted.

        Raises ForeignWeightsError if its weights are not from this run (unless takeover is set), BodyError if its
        results differ from the shadow's, RequestRefusedError, LinkLostError, MachineTimeoutError.
        """
        started = time.monotonic()
        place, how = self._find(course)
        self.was_disturbed(place.generation)
        if not self._is_new and self._seen is not None and place.moves < self._seen.moves:
            move = course.step(self._seen.moves).id
            self._tell(RolledBack(move, place.generation, "the machine rolled back, as when a lease expires"))
            # The machine may be slow, as when it works for other clients.
            self._lease_ms = max(self._lease_ms, min(2 * self._lease_ms, _SYNCHRONISE_LEASE_MS))
            self._interrupt()
            self._is_new = True
        if course.moves - place.moves > _REPLAYED_MOVES:
            place, how = self._synchronise(course), "synchronised"
        if how != "nothing":
            self._interrupt()
        if self._is_new or how != "nothing":
            self._tell(Recovered("body", how, place.generation, time.monotonic() - started))
            self._is_new = False
        began = place
        while place.moves < course.moves:
            place = self._seen = self._advance(course, place)
        if place != began:
            self._watch(course, began)
        self._settle(course, place, watched=place != began)
        self._seen = place

    def _find(self, course: Course) -> tuple[Standing, str]:
        """The body's position in the run, and what was done to get there."""
        machine = self._connected
        place = standing(machine, course.models)
        if place is not None:
            return place, "nothing"
        trial = open_trial(machine)
        if trial is not None and trial.origin == origin_of(course.run):
            # An earlier synchronisation was interrupted.
            place = roll_back(machine, trial.promoted, course.models)
            if place is not None:
                return place, "rollback"
        elif trial is not None and not self._config.takeover:
            what = f"another client ({_who(trial.origin)}) has a change on trial"
            raise RequestRefusedError(Code.BUSY, what, {"retry_ms": _TRIAL_RETRY_MS})
        if not self._config.takeover:
            raise self._foreign()
        if self._seen is not None:
            place = roll_back(machine, self._seen.generation, course.models)
            if place is not None:
                self._tell(RolledBack("foreign", place.generation, "another client changed the weights"))
                return place, "rollback"
        return self._synchronise(course), "synchronised"

    def _foreign(self) -> ForeignWeightsError:
        """The error that the body's weights are not from this run."""
        what = f"the weights of {self.name} are not from this run"
        remedy = "reboot it, name another machine, or overwrite its weights with --takeover"
        if self._seen is None:
            return ForeignWeightsError(f"{what}: another client changed them, or the model differs", remedy=remedy)
        who = _who(changed_by(self._connected))
        back = f"take the change back with `vboot rollback --generation {self._seen.generation}`"
        return ForeignWeightsError(f"{what} any more: another client ({who}) changed them", remedy=f"{back}, {remedy}")

    def _synchronise(self, course: Course) -> Standing:
        origin = origin_of(course.run)
        generation = synchronise(self._connected, course.reference, origin=origin, lease_ms=_SYNCHRONISE_LEASE_MS)
        return Standing(course.moves, generation)

    def _advance(self, course: Course, place: Standing) -> Standing:
        """Apply the next move, as a trial in the mode `trial`."""
        machine = self._connected
        step = course.step(place.moves + 1)
        lease_ms = self._lease_ms if self._config.mode == "trial" else None
        started = time.monotonic()
        made = machine.mutate(
            step.edits,
            confidence=step.confidence,
            base_generation=place.generation,
            origin=origin_of(course.run),
            lease_ms=lease_ms,
            id=change_id(course.run, step.number, place.generation),
            wait=True,
        )
        milliseconds = (time.monotonic() - started) * 1000
        found = machine.digest([])
        if found.generation != made.generation:
            raise _changed_again(found.generation)
        if found.model != step.model:
            self._take_back(step.id, place, "its weights differ from the shadow's")
        self._tell(Applied(step.id, made.generation, found.model, milliseconds, made.changed.bytes))
        self._interrupt()
        return Standing(step.number, made.generation)

    def _watch(self, course: Course, before: Standing) -> None:
        """Check that the body embeds, and runs a new kernel, as the shadow does, to the bit.

        If it does not, roll it back to `before`.
        """
        move = course.step(course.moves)
        texts, expected = course.watched()
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            self._renew()
            found = self._connected.embed(texts[start : start + _TEXTS_AT_ONCE])
            if self._seen is not None and found.generation != self._seen.generation:
                raise _changed_again(found.generation)
            if not np.array_equal(found.vectors, expected[start : start + _TEXTS_AT_ONCE]):
                self._take_back(move.id, before, "its embeddings differ from the shadow's")
        if move.kind == "kernel":
            self._renew()
            for program, output in course.probes():
                if self._connected.execute_pixels(program).output != output:
                    self._take_back(move.id, before, "its kernel's results differ from the reference")

    def _renew(self) -> None:
        """Renew the lease of a trial."""
        if self._config.mode == "trial":
            assert self._seen is not None, "applied before"
            self._connected.renew(self._seen.generation, self._lease_ms)

    def _settle(self, course: Course, place: Standing, *, watched: bool) -> None:
        """Promote the trial; watch it first if an earlier daemon was killed before it did."""
        hello = self._connected.hello()
        if hello.generation != place.generation:
            raise _changed_again(hello.generation)
        if hello.promoted == place.generation:
            return
        move = course.step(place.moves).id if place.moves else "base"
        if place.moves and not watched:
            self._seen = place
            self._watch(course, Standing(place.moves - 1, hello.promoted))
        self._connected.promote(place.generation)
        self._tell(Promoted(move, place.generation))
        self._interrupt()

    def _take_back(self, move: str, to: Standing, why: str) -> None:
        generation = self._connected.rollback(to.generation, reason=why[:60]).generation
        self._tell(RolledBack(move, generation, why))
        self._interrupt()
        raise BodyError(f"the move {move} was rolled back on {self.name}: {why}", remedy="report this bug")

    def _interrupt(self) -> None:
        """Raise the neural interrupt after an evolution event; once more if the worker died meanwhile."""
        try:
            taken = self._connected.interrupt(INTERRUPT)
        except LinkLostError:
            taken = self._connected.interrupt(INTERRUPT)
        if not taken.acknowledged:
            raise BodyError(
                f"{self.name} does not acknowledge the neural interrupt", remedy="look at the machine's console"
            )
        self._tell(Acknowledged(taken.vector, taken.latency_us))

    @property
    def _connected(self) -> MachineClient:
        assert self._machine is not None, "connected before"
        return self._machine


def change_id(run: str, number: int, base_generation: int) -> str:
    """The id (32 hex) of a move's mutation; it depends on the base generation, so a repetition is recognised."""
    return hashlib.sha256(f"{run}/{number}/{base_generation}".encode()).hexdigest()[:32]


def _who(origin: str | None) -> str:
    """The maker of a change as words."""
    return f"origin {origin!r:.60}" if origin else "of unknown origin"


def _changed_again(generation: int) -> RequestRefusedError:
    """The error that a machine gives for a stale base generation; the caller determines the position again."""
    return RequestRefusedError(Code.STALE_GENERATION, "the weights have changed again", {"generation": generation})
