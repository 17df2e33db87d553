"""What a machine with a state device may be after its power was cut. Pure: the client's own log of requests decides.

Acknowledged changes are there, in order. Of those that were sent and not acknowledged a first part is, each wholly.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.torture.expectation import DeviationError, model_digest
from vboot.protocol.tables import PROTECTED_TENSORS, Code
from vboot.weights.arithmetic import EditError, TensorData, apply
from vboot.weights.edits import Edit

Tensors = Mapping[str, TensorData]
REMEMBERED = 12
"""Number of generations that a rollback may name, besides 0."""
_REFUSED_FOR_ROOM = {Code.JOURNAL_FAILED, Code.UNKNOWN_GENERATION, Code.BUSY}


@dataclass(frozen=True, eq=False)
class Point:
    """The state of a machine. `past`: the tensors of generations that a rollback may name, the newest last."""

    generation: int
    promoted: int
    on_trial: bool
    tensors: Tensors
    past: tuple[tuple[int, Tensors], ...]
    sha256: Mapping[str, bytes] = field(repr=False)

    def arrived(self, tensors: Tensors, *, on_trial: bool) -> Point:
        """The next generation, with these tensors."""
        changed = {
            name: hashlib.sha256(new.data).digest() for name, new in tensors.items() if new is not self.tensors[name]
        }
        number = self.generation + 1
        kept = ((number, tensors),)
        past = tuple(old for old in self.past if old[0] in (0, self.promoted)) + self.past[-REMEMBERED:] + kept
        past = tuple(dict(past).items())
        promoted = self.promoted if on_trial else number
        return Point(number, promoted, on_trial, tensors, past, {**self.sha256, **changed})

    def at(self, generation: int) -> Tensors:
        """The tensors of a generation in the past. Raises KeyError."""
        return dict(self.past)[generation]

    def rebooted(self) -> Point:
        """After a reboot: an open trial has ended."""
        return self.arrived(self.at(self.promoted), on_trial=False) if self.on_trial else self

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return model_digest(self.sha256)


def golden(tensors: Tensors) -> Point:
    """Generation 0."""
    sha256 = {name: hashlib.sha256(tensor.data).digest() for name, tensor in tensors.items()}
    return Point(0, 0, False, tensors, ((0, tensors),), sha256)


@dataclass(frozen=True)
class Change:
    """A request that changes the machine. `edits`: those of a mutation. `may_fail`: there may be no room for it."""

    method: str
    params: Mapping[str, Any]
    blob: bytes = b""
    edits: tuple[Edit, ...] = ()
    may_fail: bool = False

    def applied(self, point: Point) -> Point | None:
        """The state after it; None if a machine in this state refuses it."""
        match self.method:
            case "mutate":
                return self._mutated(point)
            case "rollback":
                return self._rolled_back(point)
            case "promote" if self.params["generation"] == point.generation:
                return replace(point, promoted=point.generation, on_trial=False)
            case "renew" if point.on_trial and self.params["generation"] == point.generation:
                return point
            case "checkpoint":
                return point
        return None

    def _rolled_back(self, point: Point) -> Point | None:
        to = self.params["to"]
        if to not in dict(point.past):
            return None
        return point.arrived(point.at(to), on_trial=point.on_trial and to > point.promoted)

    def _mutated(self, point: Point) -> Point | None:
        if self.params["base_generation"] != point.generation:
            return None
        try:
            changed = apply(self.edits, point.tensors, PROTECTED_TENSORS)
        except EditError:
            return None
        new = {name: replace(point.tensors[name], data=data) for name, data in changed.items()}
        return point.arrived({**point.tensors, **new}, on_trial=point.on_trial or "lease_ms" in self.params)


class Oracle:
    """The client's log: what was acknowledged is in `point`, the rest waits in `pending`, in the order of sending."""

    def __init__(self, tensors: Tensors) -> None:
        self.point = golden(tensors)
        self.pending: deque[Change] = deque()
        self.last: Change | None = None
        """The last change with an id that was acknowledged."""
        self._after: deque[Point | None] = deque()

    @property
    def head(self) -> Point:
        """The state if all that was sent is done."""
        return next((point for point in reversed(self._after) if point is not None), self.point)

    def sent(self, change: Change) -> None:
        """Note that a request was sent, or may have been."""
        self._after.append(change.applied(self.head))
        self.pending.append(change)

    def forget(self) -> list[Change]:
        """Take out the requests without a reply: the connection is a new one."""
        waiting = list(self.pending)
        self.pending.clear()
        self._after.clear()
        return waiting

    def acknowledged(self, reply: Mapping[str, Any]) -> None:
        """Take the reply to the oldest request that has none. Raises DeviationError if it cannot be right."""
        change, after = self.pending.popleft(), self._after.popleft()
        error, result = reply.get("error"), reply.get("result") or {}
        if error is not None:
            refusable = change.may_fail and error.get("code") in _REFUSED_FOR_ROOM
            if after is not None and not refusable:
                raise DeviationError(f"{change.method} should be accepted, and was refused: {error}")
            for waiting in self.forget() if after is not None else []:
                self.sent(waiting)
            return
        if after is None:
            raise DeviationError(f"{change.method} should be refused, and was answered {result!r:.200}")
        expected = {"mutate": after.generation, "rollback": after.generation}.get(change.method)
        if expected is not None and result.get("generation") != expected:
            raise DeviationError(f"{change.method} made generation {result.get('generation')}, expected {expected}")
        if not after.on_trial and result.get("durable") is False:
            raise DeviationError(f"{change.method} was acknowledged as not durable")
        self.point = after
        self.last = change if "id" in change.params else self.last

    def settle(self, generation: int, promoted: int, digest: str) -> tuple[Change, ...]:
        """A machine that has booted says this: which unacknowledged requests were done. Raises DeviationError."""
        for handled, done, point in self.candidates():
            if (point.generation, point.promoted, point.digest) == (generation, promoted, digest):
                self.point = point
                for waiting in self.forget()[handled:]:
                    self.sent(waiting)
                return done
        known = "; ".join(
            f"{point.generation} (promoted {point.promoted}, {point.digest[:12]})" for *_, point in self.candidates()
        )
        what = f"after the cut it is at generation {generation} (promoted {promoted}, {digest[:12]})"
        raise DeviationError(f"{what}, and may be at {known}")

    def candidates(self) -> Iterator[tuple[int, tuple[Change, ...], Point]]:
        """Every state that a machine may boot to: how many pending requests it handled, and which of them it did."""
        nothing: tuple[Change, ...] = ()
        reached = [(nothing, self.point)]
        yield 0, nothing, self.point.rebooted()
        for number, change in enumerate(self.pending, start=1):
            following = []
            for done, point in reached:
                after = change.applied(point)
                if after is not None:
                    following.append(((*done, change), after))
                    yield number, (*done, change), after.rebooted()
                if after is None or change.may_fail:
                    following.append((done, point))
            reached = following
