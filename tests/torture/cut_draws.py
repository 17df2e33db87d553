"""Random changes for a machine that is about to lose its power. Pure: each follows from the generator and the state."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from tests.torture.cut_oracle import Change, Point
from vboot.weights.arithmetic import TensorData
from vboot.weights.edits import Dense, Edit, Program, Seeded, Sparse, pack
from vboot.weights.storage_types import FLOAT_STORAGE, block_of

_LEASE_MS = 600_000
_WHOLE = 0.1
"""The share of the mutations that replace every float tensor, so that a small device is full soon."""


def draw_change(random: Random, point: Point) -> Change:
    """A change that a machine in this state accepts, unless it has no room."""
    choice = random.random()
    if point.on_trial and choice < 0.2:
        return Change("promote", {"id": _id(random), "generation": point.generation}, may_fail=True)
    if point.on_trial and choice < 0.25:
        return Change("renew", {"generation": point.generation, "lease_ms": _LEASE_MS}, may_fail=True)
    if point.generation and choice < 0.35:
        to = random.choice([generation for generation, _ in point.past[-4:]] + [0, point.promoted])
        return Change("rollback", {"id": _id(random), "to": to, "reason": "cut"}, may_fail=True)
    if choice < 0.4:
        return Change("checkpoint", {"label": "cut"}, may_fail=True)
    lease = {"lease_ms": _LEASE_MS} if random.random() < 0.12 else {}
    while True:
        whole = random.random() < _WHOLE
        few = () if whole else tuple(_edit(random, point) for _ in range(random.choice((1, 1, 2))))
        change = _mutation(random, point, few or _everything(random, point), lease)
        if change.applied(point) is not None:
            return change


def draw_large(random: Random, point: Point) -> Change:
    """A mutation of every float tensor: a few of these fill a small device."""
    return _mutation(random, point, _everything(random, point), {})


def _mutation(random: Random, point: Point, edits: tuple[Edit, ...], lease: dict[str, int]) -> Change:
    members, blob = pack(edits)
    params: dict[str, Any] = {"id": _id(random), "base_generation": point.generation, "confidence": 0.9}
    # The device may be full of history that an open trial keeps.
    return Change("mutate", params | {"origin": "cut", "edits": members} | lease, blob, edits, may_fail=True)


def _edit(random: Random, point: Point) -> Edit:
    tensors = list(point.tensors.values())
    floats = [tensor for tensor in tensors if tensor.type in FLOAT_STORAGE]
    choice = random.random()
    if choice < 0.4:
        tensor = random.choice(floats)
        count = min(_elements(tensor), random.randint(1, 40))
        indices = sorted(random.sample(range(_elements(tensor)), count))
        values = [random.uniform(-1, 1) for _ in range(count)]
        return Sparse(tensor.name, "set", np.array(indices, np.uint64), np.array(values, np.float32))
    if choice < 0.6:
        return _turned(random, random.choice(floats))
    if choice < 0.75:
        return Program(f"evolved.{random.randrange(8)}", random.randbytes(3 * random.randint(1, 300)))
    return Seeded(random.choice(floats).name, f"{random.getrandbits(64):016x}", "normal", random.random(), 0.01)


def _everything(random: Random, point: Point) -> tuple[Edit, ...]:
    return tuple(_turned(random, tensor) for tensor in point.tensors.values() if tensor.type in FLOAT_STORAGE)


def _turned(random: Random, tensor: TensorData) -> Dense:
    """All bytes of a tensor, moved on by some blocks: as large as an edit can be, and finite."""
    size = block_of(tensor.type).bytes
    by = size * random.randrange(len(tensor.data) // size)
    return Dense(tensor.name, 0, tensor.data[by:] + tensor.data[:by])


def _elements(tensor: TensorData) -> int:
    block = block_of(tensor.type)
    return len(tensor.data) // block.bytes * block.elements


def _id(random: Random) -> str:
    return f"{random.getrandbits(128) | 1:032x}"
