"""Predicts the effect of a mutation on a running machine from its weights, and checks it afterwards."""

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
"""Called with the name of the step, the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Prediction:
    """The effect of edits on `base_generation`: SHA-256 (hex digits) by changed tensor, and how many bytes differ."""

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
    """Compute what `MachineClient.mutate` would do, without changing anything. It reads the tensors of the edits.

    Raises EditError with the code that the machine would send, as far as that can be known (not whether it has enough
    energy, or whether its journal works); MachineError if the weights change while they are read.
    """
    infos = {info.name: info for info in machine.tensors()}
    touched = _touched(edits, infos)
    for _ in range(_GENERATIONS_TRIED):
        hello = machine.hello()
        _check_gate(hello, edits, confidence, base_generation, signs=machine.signer is not None)
        tensors = _read(machine, touched, hello.generation, progress)
        if tensors is not None:
            break
    else:
        raise MachineError(
            "the weights kept changing while they were read", remedy="try again while no other client changes them"
        )
    protected = {name for name, info in infos.items() if info.protected}
    changed = apply(edits, tensors, protected)
    return Prediction(
        hello.generation,
        {name: hashlib.sha256(data).hexdigest() for name, data in changed.items()},
        sum(_differing(tensors[name].data, data) for name, data in changed.items()),
    )


def verify(machine: MachineClient, mutation: Mutation, prediction: Prediction) -> None:
    """Check that the newest mutation of a machine had the predicted effect. Raises MachineError if it had not."""
    remedy = f"roll back to generation {prediction.base_generation} and report this bug"
    found = dict(mutation.sha256 or {})
    left = [name for name in prediction.sha256 if name not in found]
    for start in range(0, len(left), NAMES_LIMIT):
        digest = machine.digest(left[start : start + NAMES_LIMIT])
        if digest.generation != mutation.generation:
            raise MachineError("the weights changed again before they were checked", remedy="see `history`")
        found |= digest.sha256
    wrong = [name for name in found if found[name] != prediction.sha256.get(name)]
    if wrong:
        raise MachineError(f"{wrong[0]!r} and {len(wrong) - 1} more tensors differ from the prediction", remedy=remedy)
    counted, expected = mutation.changed, (len(prediction.sha256), prediction.changed_bytes)
    if (counted.tensors, counted.bytes) != expected:
        what = f"{counted.tensors} tensors and {counted.bytes} bytes changed, not {expected[0]} and {expected[1]}"
        raise MachineError(what, remedy=remedy)


def _check_gate(
    hello: Hello, edits: Sequence[Edit], confidence: float, base_generation: int | None, *, signs: bool
) -> None:
    """Raise EditError for what the machine refuses before it looks at any edit. `signs`: the client signs changes."""
    if hello.emergency is not None:
        raise EditError(Code.EMERGENCY, f"the machine is in emergency mode: {hello.emergency}")
    if hello.signed and not signs:
        raise EditError(Code.BAD_SIGNATURE, "the machine takes signed changes only")
    if base_generation not in (None, hello.generation):
        raise EditError(Code.STALE_GENERATION, f"the current generation is {hello.generation}, not {base_generation}")
    if not CONFIDENCE_THRESHOLD < confidence <= 1:
        raise EditError(Code.LOW_CONFIDENCE, f"confidence {confidence:g} is not above {CONFIDENCE_THRESHOLD}, up to 1")
    if len(edits) > hello.limits.edits:
        raise EditError(Code.TOO_MANY_EDITS, f"{len(edits)} edits are more than {hello.limits.edits}")


def _touched(edits: Sequence[Edit], infos: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """The tensors of the edits; protected ones only if an edit has their exact name."""
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
    """These tensors at a generation, protected ones without their bytes; None if the generation changes meanwhile."""
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
