"""Brings a running machine to the weights of a file by the smallest edits: one mutation, which happens wholly or not.

Only if the edits do not fit one mutation are they several, on trial until the last one was made: a trial that is not
promoted is taken back by the machine, so that it never stays half-way.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np

from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import MACHINE_TENSORS, PROTECTED, model_sha256
from evolution.surgeon.values import stored
from evolution.transfer.live import Progress, changeable_slots, live_digests, model_tensors, require_same_tensors
from evolution.transfer.snapshot import LiveWeights, Snapshot
from vboot.client.machine import MachineClient
from vboot.errors import VbootError
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.messages import MachineLimits, Mutation, TensorInfo
from vboot.protocol.tables import Code
from vboot.text import path_text
from vboot.weights.difference import EDIT_BYTES, TensorDifference, difference

Part: TypeAlias = tuple[TensorDifference, ...]
"""What one mutation changes."""

_EDITS_PER_TENSOR = (64, 16, 4, 1)
_CONFLICTS = 2
_CHAIN_LEASE_MS = 120_000
_LINE_MARGIN = 2048


@dataclass(frozen=True)
class ApplyPlan:
    """What must be done to the generation `base_generation`: a mutation for each part, `most` edits for a tensor.

    `sha256`: the digests that the changed tensors must get, `model` that of the machine then. `bytes` are those of the
    edits' data, `read_bytes` what was read from the machine to find them. `left_out`: the machine's own tensors that
    differ in the file, and stay.
    """

    base_generation: int
    parts: tuple[Part, ...]
    most: int
    edits: int
    bytes: int
    sha256: Mapping[str, str]
    model: str
    read_bytes: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ApplyReport:
    """What was done: `generation` has the file's weights. `on_trial`: it is taken back unless it is promoted.

    `plan` is the last one made, but its base is the generation before the first mutation.
    """

    plan: ApplyPlan
    generation: int
    on_trial: bool


class FileApplication:
    """A file whose weights a machine shall get; a context manager.

    `base`: a file that may hold what the machine has, which then is not read from it (None: there is none).
    """

    def __init__(self, machine: MachineClient, file: GGUFFile, base: GGUFFile | None, progress: Progress) -> None:
        """Raises InputError that names the first difference if the file has other tensors than the machine."""
        infos = machine.tensors()
        tensors = model_tensors(infos)
        require_same_tensors(tensors, model_tensors(_infos(file)), path_text(file.path))
        self._machine = machine
        self._file = file
        self._base = base
        self._progress = progress
        self._changes = 0
        self._joins_trial = False
        self._trial_since: int | None = None
        self._first: int | None = None
        self._last: int | None = None
        self._is_shared = False
        folder = Path(tempfile.gettempdir())
        slots = changeable_slots(infos)
        self._live = LiveWeights(machine, tensors, self._is_here, also=slots, folder=folder, progress=progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def plan(self) -> ApplyPlan:
        """What must be done to the machine's current weights. Raises MachineError if they change all the time."""
        taken = self._live.take()
        found = list(self._differences(taken))
        parts, most = _parts(found, self._machine.greeted.limits)
        costs = [each.cost(most) for part in parts for each in part]
        file = self._file
        slots = {name: digest for name, digest in taken.sha256.items() if name in MACHINE_TENSORS}
        weights = {name: file.sha256(name) for name in file.tensors if name not in MACHINE_TENSORS}
        return ApplyPlan(
            base_generation=taken.generation,
            parts=parts,
            most=most,
            edits=sum(edits for edits, _ in costs),
            bytes=sum(size for _, size in costs),
            sha256={each.name: weights[each.name] for each in found},
            model=model_sha256(weights | slots),
            read_bytes=taken.read_bytes,
            left_out=tuple(name for name in slots if name in file.tensors and file.sha256(name) != slots[name]),
        )

    def carry_out(self, *, confidence: float, origin: str, lease_ms: int | None, ident: str) -> ApplyReport:
        """Make the change; changes by other clients meanwhile are taken into account once.

        `ident` (32 hex digits): the id of the first mutation. Raises RequestRefusedError, MachineError.
        """
        try:
            return self._carry_out(confidence, origin, lease_ms, ident)
        except VbootError as error:
            if self._last is None or (outcome := self._taken_back()) is None:
                raise
            raise MachineError(f"{error.what}; {outcome}", remedy=error.remedy) from error

    def _taken_back(self) -> str | None:
        """End a chain that failed, unless another client has changed the weights since it began; tell which.

        None if neither is known. Generations that the chain made without a conflict are all its own.
        """
        assert self._first is not None, "a chain was begun"
        with suppress(VbootError):
            if not self._is_shared and self._machine.hello().generation == self._last:
                self._machine.rollback(self._first, reason="vboot apply")
                return f"the machine is back at the weights of generation {self._first}"
            return (
                "the part of the change that was made is not taken back, as other clients changed the weights, too "
                "(see `vboot history`)"
            )
        return None

    def _carry_out(self, confidence: float, origin: str, lease_ms: int | None, ident: str) -> ApplyReport:
        conflicts = 0
        while True:
            plan = self.plan()
            if not plan.parts and not self._changes:
                return ApplyReport(plan, plan.base_generation, on_trial=False)
            # After the plan: a trial that is opened later changes the generation, and so refuses the first part.
            self._look_for_trial()
            try:
                return self._make(plan, confidence, origin, lease_ms, ident)
            except RequestRefusedError as refusal:
                if _lacks_memory(refusal):
                    # Not in smaller parts: a trial of many fills the journal, and memory, until nothing works.
                    what = f"the machine has no memory for a change of {plan.bytes} bytes at once ({refusal.what})"
                    raise MachineError(what, remedy="boot it with more: `vboot boot --memory MIB`") from refusal
                if refusal.code != Code.STALE_GENERATION:
                    raise
                conflicts += 1
                self._is_shared = self._changes > 0
                if conflicts == _CONFLICTS:
                    what = f"other clients changed the weights {conflicts} times in the meantime"
                    raise MachineError(what, remedy="try again when they are done") from refusal

    def _look_for_trial(self) -> None:
        """Note whether a trial of somebody else is open, which the next mutation would join."""
        hello = self._machine.hello()
        is_open = hello.promoted < hello.generation
        is_own = self._changes > 0 and not self._joins_trial and hello.promoted == self._trial_since
        self._joins_trial = is_open and not is_own
        self._trial_since = hello.promoted

    def _make(self, plan: ApplyPlan, confidence: float, origin: str, lease_ms: int | None, ident: str) -> ApplyReport:
        is_chain = len(plan.parts) != 1 or self._changes > 0
        generation, sent = plan.base_generation, 0
        made = None
        for part in plan.parts:
            edits = [edit for each in part for edit in each.edits(plan.most)]
            made = self._machine.mutate(
                edits,
                confidence=confidence,
                base_generation=generation,
                origin=origin,
                # Each mutation with a lease lets the open trial last that long from then on.
                lease_ms=_CHAIN_LEASE_MS if is_chain else lease_ms,
                digest=not is_chain,
                id=ident if self._changes == 0 else None,
                wait=True,
                progress=lambda done, _total, sent=sent: self._progress("send", sent + done, plan.bytes),  # type: ignore[misc]
            )
            self._changes += 1
            self._first = generation if self._first is None else self._first
            if is_chain:
                self._last = made.generation
            sent += sum(size for each in part for _, size in [each.cost(plan.most)])
            generation = made.generation
        self._last = None  # all is done
        plan = plan if self._first is None else replace(plan, base_generation=self._first)
        if plan.parts:
            self._verify(plan, generation, made if not is_chain else None)
        if is_chain:
            self._end_chain(generation, lease_ms)
        return ApplyReport(plan, generation, on_trial=self._machine.hello().promoted < generation)

    def _end_chain(self, generation: int, lease_ms: int | None) -> None:
        if self._machine.hello().promoted == generation:
            return  # another client has promoted it
        if lease_ms is not None:
            self._machine.renew(generation, lease_ms)
        elif not self._joins_trial:  # else the trial of somebody else would be promoted
            self._machine.promote(generation)

    def _verify(self, plan: ApplyPlan, generation: int, made: Mutation | None) -> None:
        """Raise MachineError unless the changed tensors have the file's digests."""
        if made is not None and made.sha256 is not None:
            found: Mapping[str, str] = made.sha256
        else:
            live = live_digests(self._machine, list(plan.sha256))
            if live is None or live.generation != generation:
                what = f"the weights changed again before generation {generation} was checked"
                raise MachineError(what, remedy="see `vboot history`, and apply the file again")
            found = live.sha256
        wrong = [name for name, digest in plan.sha256.items() if found.get(name) != digest]
        if wrong:
            what = f"{wrong[0]!r} does not have the digest of the file"
            remedy = f"roll back to generation {plan.base_generation} and report this bug"
            raise MachineError(what, remedy=remedy)

    def _is_here(self, name: str, sha256: str) -> bool:
        if self._file.sha256(name) == sha256:
            return True
        return self._base is not None and name in self._base.tensors and self._base.sha256(name) == sha256

    def _differences(self, taken: Snapshot) -> Iterator[TensorDifference]:
        names = [name for name in taken.sha256 if name not in MACHINE_TENSORS]
        names = [name for name in names if taken.sha256[name] != self._file.sha256(name)]
        total = sum(len(self._file.tensors[name].data) for name in names)
        done = 0
        for name in names:
            wanted = self._file.tensors[name]
            if name in taken.fetched:
                before = np.frombuffer(taken.read(name), np.uint8)
            else:
                assert self._base is not None, "it is here, and not in the file"
                before = stored(self._base.tensors[name])
            found = difference(name, wanted.type, before, stored(wanted))
            assert found is not None, "the digests differ"
            done += len(before)
            self._progress("compare the weights", done, total)
            yield found


def _lacks_memory(refusal: RequestRefusedError) -> bool:
    """Whether the machine has no memory for the upload, or for the mutation."""
    return refusal.code == Code.UNUSABLE_BLOB or (refusal.code == Code.BUSY and refusal.retry_ms is None)


def _infos(file: GGUFFile) -> list[TensorInfo]:
    return [
        TensorInfo(name, tensor.type, tensor.shape, len(tensor.data), name in PROTECTED)
        for name, tensor in file.tensors.items()
    ]


def _parts(found: Sequence[TensorDifference], limits: MachineLimits) -> tuple[tuple[Part, ...], int]:
    """What goes into each mutation, and how many edits a tensor may have; one mutation if its limits allow."""
    if not found:
        return (), 1
    for most in _EDITS_PER_TENSOR:
        if _fits([_weight(each, most) for each in found], limits):
            return (tuple(found),), most
    parts: list[list[TensorDifference]] = [[]]
    weights: list[tuple[int, int, int]] = []
    for piece in (piece for each in found for piece in each.split(limits.upload // 2)):
        weight = _weight(piece, 1)
        if parts[-1] and not _fits([*weights, weight], limits):
            parts.append([])
            weights = []
        parts[-1].append(piece)
        weights.append(weight)
    return tuple(map(tuple, parts)), 1


def _weight(each: TensorDifference, most: int) -> tuple[int, int, int]:
    """What a tensor needs of the limits: edits, bytes of data, bytes of the line."""
    edits, size = each.cost(most)
    return edits, size, edits * (EDIT_BYTES + len(json.dumps(each.name)))


def _fits(weights: Sequence[tuple[int, int, int]], limits: MachineLimits) -> bool:
    edits, size, line = (sum(weight[column] for weight in weights) for column in range(3))
    return edits <= limits.edits and size <= limits.upload and line + _LINE_MARGIN <= limits.line
