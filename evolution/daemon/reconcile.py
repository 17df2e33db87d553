"""Determines which of the run's weights a body has, and transfers weights to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vboot.client.machine import MachineClient
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.messages import Digest, TensorInfo
from vboot.protocol.tables import Code
from vboot.weights.edits import Dense

ORIGIN = "evolve"
"""The beginning of the origin of all changes by this daemon; the beginning of the run's id follows."""
_ORIGIN_LIMIT = 16
"""The journal keeps so many bytes of an origin."""
_DIGESTS_AT_ONCE = 256
_BYTES_AT_ONCE = 64 << 20
"""The most bytes in one mutation, of which the machine needs two copies meanwhile."""


class ForeignWeightsError(MachineError):
    """The body's weights are not from the run."""


@dataclass(frozen=True)
class Standing:
    """A body's position: it has the run's weights after `moves` moves, as its own generation `generation`."""

    moves: int
    generation: int


@dataclass(frozen=True)
class Reference:
    """The weights that a body must have: the model's digest, its tensors, and functions for their digests and bytes."""

    model: str
    terrain: Sequence[TensorInfo]
    digests: Callable[[Sequence[str]], Digest]
    read: Callable[[str], bytes]


def standing(machine: MachineClient, models: Sequence[str]) -> Standing | None:
    """The body's position in `models`, the run's digests from the oldest; None: its weights are not from the run."""
    machine.hello()  # detects a dead body quickly: hashing may take minutes
    found = machine.digest([])
    for moves in range(len(models) - 1, -1, -1):
        if models[moves] == found.model:
            return Standing(moves, found.generation)
    return None


@dataclass(frozen=True)
class OpenTrial:
    """A trial that is open on a body: the generation that it began from, and who made its newest change."""

    promoted: int
    origin: str | None


def origin_of(run: str) -> str:
    """The origin of the changes of a run, by which it knows its own among those of other clients."""
    return f"{ORIGIN} {run}"[:_ORIGIN_LIMIT]


def open_trial(machine: MachineClient) -> OpenTrial | None:
    """The trial that is open on the body, if one is."""
    hello = machine.hello()
    return None if hello.promoted == hello.generation else OpenTrial(hello.promoted, changed_by(machine))


def changed_by(machine: MachineClient) -> str | None:
    """The origin of the newest change of the body's weights; None if it is not known."""
    made = [record for record in machine.history() if record.kind == "mutate" and record.verdict == "applied"]
    return made[-1].origin if made else None


def roll_back(machine: MachineClient, to: int, models: Sequence[str]) -> Standing | None:
    """Roll the body back to a generation; None if that is no longer kept, or is not from the run."""
    try:
        machine.rollback(to, reason=ORIGIN)
    except RequestRefusedError as refusal:
        if refusal.code != Code.UNKNOWN_GENERATION:
            raise
        return None
    return standing(machine, models)


def synchronise(machine: MachineClient, wanted: Reference, *, origin: str, lease_ms: int) -> int:
    """Send the body the bytes of every tensor that differs; returns its generation.

    All mutations are one trial, so the body returns to its old weights if the daemon is lost meanwhile. Raises
    MachineError if the body has another digest in the end, or other tensors.
    """
    _require_same_tensors(machine, wanted)
    names = [info.name for info in wanted.terrain if not info.protected]
    differing = list(_differing(machine, wanted, names))
    sizes = {info.name: info.bytes for info in wanted.terrain}
    generation = machine.hello().generation
    for part in _parts(differing, sizes):
        edits = [Dense(name, 0, wanted.read(name)) for name in part]
        made = machine.mutate(
            edits, confidence=1.0, base_generation=generation, origin=origin, lease_ms=lease_ms, wait=True
        )
        generation = made.generation
        machine.renew(generation, lease_ms)
    found = machine.digest([])
    if found.model != wanted.model:
        raise MachineError(
            f"expected the digest {wanted.model:.12} after the transfer, the body has {found.model:.12}",
            remedy="report this bug",
        )
    machine.promote(found.generation)
    return found.generation


def _require_same_tensors(machine: MachineClient, wanted: Reference) -> None:
    ours = {(info.name, info.type, info.shape) for info in wanted.terrain if not info.protected}
    theirs = {(info.name, info.type, info.shape) for info in machine.tensors() if not info.protected}
    if ours != theirs:
        name = sorted(ours ^ theirs)[0][0]
        raise ForeignWeightsError(
            f"the body runs another model: its tensor {name!r} is missing or has another type or shape",
            remedy="name a machine that runs the model of this run",
        )


def _differing(machine: MachineClient, wanted: Reference, names: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(names), _DIGESTS_AT_ONCE):
        part = names[start : start + _DIGESTS_AT_ONCE]
        ours, theirs = wanted.digests(part).sha256, machine.digest(part).sha256
        yield from (name for name in part if ours[name] != theirs[name])


def _parts(names: Sequence[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """The names in groups of bounded total size."""
    part: list[str] = []
    for name in names:
        if (part and sum(sizes[each] for each in [*part, name]) > _BYTES_AT_ONCE) or len(part) == 256:
            yield part
            part = []
        part.append(name)
    if part:
        yield part
