"""What a mutation would do to a running machine, computed here from its weights, and whether it did just that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from vboot.client.machine import MachineClient
from vboot.protocol.errors import MachineError
from vboot.protocol.messages import Hello, Mutation, TensorInfo
from vboot.protocol.tables import NAMES_LIMIT, Code
from vboot.weights.arithmetic import EditError, TensorData, apply
from vboot.weights.edits import Edit, Seeded

CONFIDENCE_THRESHOLD = 0.8
_GENERATIONS_TRIED = 3

Progress = Callable[[str, int, int], None]
"""Told what is done, bytes so far and bytes in all."""


@dataclass(frozen=True)
class Prediction:
    """The outcome of edits applied to `base_generation`: SHA-256 (hex) of each changed tensor, bytes that differ."""

    base_generation: int
    sha256: Mapping[str, str]
    changed_bytes: int


def predict(
    machine: MachineClient,
    edits: Sequence[Edit],
    *,
    confidence: float,
    base_generation: int | None = None,
    progress: Progress = lambda _phase, _done, _total: None,
) -> Prediction:
    """Compute what `MachineClient.mutate` would do, changing nothing; the tensors that the edits touch are read for it.

    Raises EditError with the code that the machine would answer, as far as it can be known beforehand (not whether
    there is energy enough, or the journal works); MachineError when the weights change while they are read.
    """
    infos = {info.name: info for info in machine.tensors()}
    touched = _touched(edits, infos)
    for _ in range(_GENERATIONS_TRIED):
        hello = machine.hello()
        _check_gate(hello, edits, confidence, base_generation)
        tensors = _read(machine, touched, hello.generation, progress)
        if tensors is not None:
            break
    else:
        raise MachineError(
            "the weights kept changing while they were read", remedy="try again when nobody changes them"
        )
    protected = {name for name, info in infos.items() if info.protected}
    changed = apply(edits, tensors, protected)
    return Prediction(
        hello.generation,
        {name: hashlib.sha256(data).hexdigest() for name, data in changed.items()},
        sum(_differing(tensors[name].data, data) for name, data in changed.items()),
    )


def verify(machine: MachineClient, mutation: Mutation, prediction: Prediction) -> None:
    """That a mutation, the newest of its machine, did what was predicted. Raises MachineError for what differs."""
    remedy = f"roll back to generation {prediction.base_generation} and report this bug"
    found = dict(mutation.sha256 or {})
    left = [name for name in prediction.sha256 if name not in found]
    for start in range(0, len(left), NAMES_LIMIT):
        digest = machine.digest(left[start : start + NAMES_LIMIT])
        if digest.generation != mutation.generation:
            raise MachineError("the weights have changed again before they were checked", remedy="see its history")
        found |= digest.sha256
    wrong = [name for name in found if found[name] != prediction.sha256.get(name)]
    if wrong:
        raise MachineError(f"{wrong[0]!r} and {len(wrong) - 1} more are not what was predicted", remedy=remedy)
    counted, expected = mutation.changed, (len(prediction.sha256), prediction.changed_bytes)
    if (counted.tensors, counted.bytes) != expected:
        what = f"{counted.tensors} tensors and {counted.bytes} bytes changed, not {expected[0]} and {expected[1]}"
        raise MachineError(what, remedy=remedy)


def _check_gate(hello: Hello, edits: Sequence[Edit], confidence: float, base_generation: int | None) -> None:
    """What is refused before any edit is looked at."""
    if hello.emergency is not None:
        raise EditError(Code.EMERGENCY, f"the machine is in emergency mode: {hello.emergency}")
    if hello.signed:
        raise EditError(Code.BAD_SIGNATURE, "the machine takes signed changes only")
    if base_generation not in (None, hello.generation):
        raise EditError(Code.STALE_GENERATION, f"the current generation is {hello.generation}, not {base_generation}")
    if not CONFIDENCE_THRESHOLD < confidence <= 1:
        raise EditError(Code.LOW_CONFIDENCE, f"confidence {confidence:g} is not above {CONFIDENCE_THRESHOLD}, up to 1")
    if len(edits) > hello.limits.edits:
        raise EditError(Code.TOO_MANY_EDITS, f"{len(edits)} edits are more than {hello.limits.edits}")


def _touched(edits: Sequence[Edit], infos: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """The tensors that the edits name, protected ones also if they are named and not just matched."""
    names: dict[str, None] = {}
    for edit in edits:
        pattern = edit.tensors if isinstance(edit, Seeded) else edit.tensor
        if pattern in infos:
            names[pattern] = None
        elif isinstance(edit, Seeded):
            matching = (n for n, info in infos.items() if not info.protected and fnmatchcase(n, pattern))
            names.update(dict.fromkeys(matching))
    return [infos[name] for name in names]


def _read(
    machine: MachineClient, infos: Sequence[TensorInfo], generation: int, progress: Progress
) -> dict[str, TensorData] | None:
    """These tensors as of a generation (those that are protected without bytes); None if it passes meanwhile."""
    total = sum(info.bytes for info in infos)
    done = 0
    tensors = {}
    for info in infos:
        data = b""
        if not info.protected and info.bytes:
            piece = machine.read(info.name, size=info.bytes)
            if piece.generation != generation:
                return None
            data = piece.data
        tensors[info.name] = TensorData(info.name, info.type, info.shape, data)
        done += info.bytes
        progress("read the weights", done, total)
    return tensors


def _differing(before: bytes, after: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)))
