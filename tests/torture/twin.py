"""The machine's twin: keeps its weights, predicts each reply, remembers its newest generations."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.torture.draws import Defect
from tests.torture.expectation import STALE, DeviationError, Request, State, model_digest
from tests.torture.model import PROTECTED
from vboot.weights.arithmetic import EditError, TensorData, apply
from vboot.weights.edits import Edit, Seeded, pack

REMEMBERED = 2048
"""Number of generations whose weights are remembered."""

_WRONG_PARAMS, _CONFIDENCE, _TOO_MANY, _CRC, _OTHER_CONTENT = -32602, 1006, 1013, 1011, 1020
_EDITS_LIMIT = 256
LONG_LEASE_MS = 600_000
_PADDING = Seeded("float.F32.0", "0" * 16, "normal", 0.5, 1.0)


class Twin:
    """The expected state of the machine after it has answered all requests so far."""

    def __init__(self, tensors: Mapping[str, TensorData], *, run: int) -> None:
        """`run` makes the ids of changes differ from those of other runs against the same machine."""
        self.tensors = dict(tensors)
        self.generation = 0
        self.promoted = 0
        self.on_trial = False
        self._run = run
        self._changes = 0
        self._before_rollback = (0, 0, False)
        self._protected = {name: TensorData(name, "I8", (1,), b"\0") for name in PROTECTED}
        self._states: OrderedDict[int, State] = OrderedDict()
        sha256 = {name: hashlib.sha256(tensor.data).digest() for name, tensor in tensors.items()}
        data = {name: tensor.data for name, tensor in tensors.items()}
        self._states[0] = State(data, sha256, model_digest(sha256))

    @property
    def oldest(self) -> int:
        """The oldest generation remembered."""
        return next(iter(self._states))

    def state(self, generation: int | None = None) -> State:
        """The weights of a remembered generation, by default the current one."""
        generation = self.generation if generation is None else generation
        if generation not in self._states:
            raise DeviationError(f"generation {generation} is none of {self.oldest} to {self.generation}")
        return self._states[generation]

    def mutate(
        self,
        cycle: int,
        edits: Sequence[Edit],
        *,
        defect: Defect | None = None,
        lease_ms: int | None = None,
        earlier: Request | None = None,
    ) -> Request:
        """Request edits. `earlier` is an accepted mutation, for the defects that need one."""
        if defect == "repeat" and earlier:
            return replace(earlier, cycle=cycle, result={**(earlier.result or {}), "replayed": True})
        padding = [_PADDING] * (_EDITS_LIMIT + 1 - len(edits)) if defect == "too_many" else []
        members, blob = pack([*edits, *padding])
        params: dict[str, Any] = {
            "id": self._next_id(),
            "base_generation": self.generation + (7 if defect == "stale" else 0),
            "confidence": 0.8 if defect == "confidence" else 0.9,
            "origin": "torture",
            "edits": members,
            "digest": True,
        }
        if lease_ms is not None:
            params["lease_ms"] = lease_ms
        if defect == "other_content" and earlier:
            params["id"] = earlier.params["id"]
        request = Request(cycle, "mutate", params, blob, wrong_crc=defect == "crc" and bool(blob))
        code, changed = self._judge(request, edits, defect, has_earlier=earlier is not None)
        if code:
            return replace(request, code=code, generation=self.generation)
        count = self._become(changed)
        if lease_ms is None and not self.on_trial:
            self.promoted = self.generation
        self.on_trial |= lease_ms is not None
        result = {
            "id": params["id"],
            "generation": self.generation,
            "changed": {"tensors": len(changed), "bytes": count},
            "replayed": False,
            "sha256": {name: self.state().sha256[name].hex() for name in changed},
        }
        return replace(request, result=result, generation=self.generation)

    def rollback(self, cycle: int, to: int) -> Request:
        """Request a rollback to a remembered generation."""
        state = self.state(to)
        self._before_rollback = (self.generation, self.promoted, self.on_trial)
        if to <= self.promoted:
            self.on_trial = False
        self._arrive(state)
        if not self.on_trial:
            self.promoted = self.generation
        params = {"id": self._next_id(), "to": to, "reason": "torture"}
        result = {"generation": self.generation, "restored": to, "replayed": False}
        return Request(cycle, "rollback", params, result=result, generation=self.generation)

    def undo_rollback(self) -> None:
        """Undo the prediction of the last request, a rollback that was refused."""
        del self._states[self.generation]
        self.generation, self.promoted, self.on_trial = self._before_rollback
        self._take(self.state().data)

    def promote(self, cycle: int) -> Request:
        """Request promotion of the current generation."""
        self.promoted, self.on_trial = self.generation, False
        params = {"id": self._next_id(), "generation": self.generation}
        return Request(cycle, "promote", params, result={"promoted": self.generation}, generation=self.generation)

    def renew(self, cycle: int) -> Request:
        """Request a longer lease for the open trial."""
        params = {"generation": self.generation, "lease_ms": LONG_LEASE_MS}
        return Request(cycle, "renew", params, result={}, generation=self.generation)

    def expire(self) -> None:
        """The lease is over: the machine rolls back to the promoted generation by itself."""
        self.on_trial = False
        self._arrive(self.state(self.promoted))
        self.promoted = self.generation

    def checkpoint(self, cycle: int) -> Request:
        """Request a checkpoint."""
        return Request(cycle, "checkpoint", {}, result={"generation": self.generation}, generation=self.generation)

    def digest(self, cycle: int) -> Request:
        """Request the digest of the model."""
        return Request(cycle, "digest", {"tensors": []}, generation=self.generation)

    def read(self, cycle: int, tensor: str) -> Request:
        """Request all bytes of a tensor."""
        params = {"tensor": tensor, "bytes": len(self.tensors[tensor].data)}
        return Request(cycle, "read", params, generation=self.generation)

    def hello(self, cycle: int) -> Request:
        """Request the current and the promoted generation."""
        params = {"protocol": 1, "client": "torture"}
        result = {"generation": self.generation, "promoted": self.promoted, "emergency": None}
        return Request(cycle, "hello", params, result=result, generation=self.generation)

    def _judge(
        self, request: Request, edits: Sequence[Edit], defect: Defect | None, *, has_earlier: bool
    ) -> tuple[int, dict[str, bytes]]:
        """The code of the refusal, else 0 and the new bytes. Blob, parameters, id, generation, confidence, edits."""
        if request.wrong_crc:
            return _CRC, {}
        gate = {"stale": STALE, "confidence": _CONFIDENCE, "too_many": _TOO_MANY}.get(defect or "", 0)
        if defect == "other_content" and has_earlier:
            gate = _OTHER_CONTENT
        # The first defect that the gate finds decides, except invalid parameters, which come first.
        try:
            changed = apply(edits, self.tensors | self._protected, PROTECTED)
        except EditError as refusal:
            return gate if gate and refusal.code != _WRONG_PARAMS else refusal.code, {}
        return gate, changed

    def _become(self, changed: Mapping[str, bytes]) -> int:
        """Make the next generation with new bytes; returns how many bytes differ."""
        state = self.state()
        count = sum(_differing(state.data[name], data) for name, data in changed.items())
        sha256 = {**state.sha256, **{name: hashlib.sha256(data).digest() for name, data in changed.items()}}
        self._arrive(State({**state.data, **changed}, sha256, model_digest(sha256)))
        return count

    def _arrive(self, state: State) -> None:
        self._take(state.data)
        self.generation += 1
        self._states[self.generation] = state
        if len(self._states) > REMEMBERED:
            self._states.popitem(last=False)

    def _take(self, data: Mapping[str, bytes]) -> None:
        for name, new in data.items():
            if self.tensors[name].data is not new:
                self.tensors[name] = replace(self.tensors[name], data=new)

    def _next_id(self) -> str:
        self._changes += 1
        return f"{self._run:016x}{self._changes:016x}"


def _differing(before: bytes, after: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)))
