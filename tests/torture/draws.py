"""The content of each cycle, drawn from the seed and its number alone, so any cycle can be repeated. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import numpy as np

from tests.torture.model import PROTECTED, SLOT_NAMES, floats, stored_bytes
from vboot.protocol.tables import PROGRAM_PIXELS_LIMIT, RANK_LIMIT
from vboot.weights.arithmetic import TensorData
from vboot.weights.edits import SEEDED_FORMS, Dense, Edit, LowRank, Program, Seeded, Sparse
from vboot.weights.storage_types import CODE_RANGES, FLOAT_STORAGE, block_of

Defect: TypeAlias = Literal["stale", "confidence", "too_many", "crc", "other_content", "repeat"]
"""What is wrong with a request, whatever its edits are; `repeat` sends an accepted one again."""
Trial: TypeAlias = Literal["promote", "roll_back", "expire"]
Disturbance: TypeAlias = Literal["kill", "segv", "cut"]
"""The worker gets SIGKILL or SIGSEGV, or the client disconnects in the middle of a message."""

Families: TypeAlias = Mapping[str, Sequence[TensorData]]
"""Tensors by the first part of their names."""

_Draw: TypeAlias = Callable[[Random, Families], Edit]

_DEFECTS: tuple[Defect, ...] = ("stale", "confidence", "too_many", "crc", "other_content", "repeat")
_TRIALS: tuple[Trial, ...] = ("promote", "roll_back", "promote", "roll_back", "expire")
_DISTURBANCES: Mapping[Disturbance, int] = {"cut": 8, "kill": 1, "segv": 1}
"""The frequency of each, out of ten."""


@dataclass(frozen=True)
class Draft:
    """A mutation to request, with at most one defect."""

    edits: tuple[Edit, ...]
    defect: Defect | None


@dataclass(frozen=True)
class Cycle:
    """One cycle: mutations, then a rollback unless `kept`.

    `detour`: number of generations to roll back before that. `trial`: the mutations are on trial, which ends in this
    way. `disturbance`: the fault while requests are unanswered. `reading`: tensors to read in full.
    """

    number: int
    drafts: tuple[Draft, ...]
    kept: bool
    detour: int | None
    trial: Trial | None
    disturbance: Disturbance | None
    checkpoint: bool
    reading: tuple[str, ...]


def draw_cycle(seed: int, number: int, tensors: Mapping[str, TensorData]) -> Cycle:
    """The cycle of this number. Only names, types and shapes of `tensors` matter."""
    random = Random(f"{seed} {number}")
    disturbance = None
    if random.random() < 1 / 150:
        disturbance = random.choices(list(_DISTURBANCES), list(_DISTURBANCES.values()))[0]
    trial = random.choice(_TRIALS) if random.random() < (1 / 4 if disturbance else 1 / 40) else None
    if disturbance and trial == "expire":
        trial = None  # it could be over before the connection is back
    by_family = _families(tensors)
    count = 1 if trial == "expire" else random.choice((1, 1, 1, 2, 2, 3))
    drafts = tuple(_draft(random, by_family, clean=trial is not None) for _ in range(count))
    detour = random.random() < 1 / 16 or disturbance is not None
    return Cycle(
        number=number,
        drafts=drafts,
        kept=not trial and random.random() < 1 / 8,
        # Log-uniform: each doubling of the distance is equally likely.
        detour=int(2 ** random.uniform(0, 10)) if detour and not trial else None,
        trial=trial,
        disturbance=disturbance,
        checkpoint=random.random() < 1 / 500,
        reading=tuple(random.sample(list(tensors), 2)) if random.random() < 1 / 32 else (),
    )


def _families(tensors: Mapping[str, TensorData]) -> Families:
    found: dict[str, list[TensorData]] = {}
    for tensor in tensors.values():
        found.setdefault(tensor.name.partition(".")[0], []).append(tensor)
    return found


def _draft(random: Random, by_family: Families, *, clean: bool) -> Draft:
    edits = [_EDITS[random.choice(_KINDS)](random, by_family) for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4, 5)))]
    defect: Defect | None = None
    if not clean and random.random() < 1 / 6:
        if random.random() < 1 / 2:
            defect = random.choice(_DEFECTS)
        else:
            spoilt = random.choice(_SPOILERS)(random, by_family)
            edits.insert(random.randint(0, len(edits)), spoilt)
    return Draft(tuple(edits), defect)


def _dense(random: Random, by_family: Families) -> Edit:
    tensor = random.choice(by_family[random.choice(("float", "coded", "other", "other", "evolved"))])
    block = block_of(tensor.type)
    blocks = math.prod(tensor.shape) // block.elements
    first = random.randrange(blocks)
    count = min(random.randint(1, 8 if block.elements == 1 else 2), blocks - first)
    finite = block.elements == 1 and random.random() < 0.97
    data = stored_bytes(tensor.type, count * block.elements, random, finite=finite)
    return Dense(tensor.name, first * block.bytes, data)


def _sparse(random: Random, by_family: Families) -> Edit:
    tensor = random.choice(by_family["float"])
    elements = math.prod(tensor.shape)
    indices = sorted(random.sample(range(elements), random.randint(1, min(12, elements))))
    return Sparse(
        tensor.name, random.choice(("set", "add")), np.array(indices, np.uint64), floats(len(indices), random)
    )


def _low_rank(random: Random, by_family: Families) -> Edit:
    tensor = random.choice(by_family["float"])
    columns, rows = tensor.shape
    rank = random.choice((1, 1, 2, 3, 4)) if random.random() < 0.98 else RANK_LIMIT
    factors = floats((columns + rows) * rank, random).reshape(-1, rank)
    return LowRank(tensor.name, random.uniform(-2, 2), factors[:rows], factors[rows:])


def _seeded(random: Random, by_family: Families) -> Edit:
    form = random.choice(SEEDED_FORMS)
    pool = by_family["float"] if form == "normal" else [t for t in _all(by_family) if t.type in CODE_RANGES]
    tensor = random.choice(pool)
    names = tensor.name
    if random.random() < 0.2:
        # A pattern: both tensors of the type, or all of a family.
        names = random.choice((f"*.{tensor.type}.?", tensor.name[:-1] + "[0-9]", tensor.name.partition(".")[0] + ".*"))
    density = random.choice((1.0, 0.5, 0.05, random.random()))
    scale = 1.0 if form == "step" else 2 ** random.uniform(-20, 1) * random.choice((-1, 1))
    return Seeded(names, f"{random.getrandbits(64):016x}", form, density, scale)


def _program(random: Random, _: Families) -> Edit:
    pixels = random.randint(0, 40) if random.random() < 0.95 else PROGRAM_PIXELS_LIMIT
    return Program(random.choice(SLOT_NAMES), random.randbytes(3 * pixels))


def _all(by_family: Families) -> list[TensorData]:
    return [tensor for family in by_family.values() for tensor in family]


_EDITS: Mapping[str, _Draw] = {
    "dense": _dense,
    "sparse": _sparse,
    "low_rank": _low_rank,
    "seeded": _seeded,
    "program": _program,
}
_KINDS = ("dense", "dense", "sparse", "sparse", "low_rank", "seeded", "seeded", "program")


def _values(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(numbers, np.float32)


def _indices(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


def _behind_the_end(tensor: TensorData) -> Edit:
    return Dense(tensor.name, len(tensor.data), bytes(block_of(tensor.type).bytes))


def _of_another_type(random: Random, by_family: Families, kind: str) -> Edit:
    tensor = random.choice([t for t in _all(by_family) if t.type not in FLOAT_STORAGE | CODE_RANGES.keys()])
    seed = f"{random.getrandbits(64):016x}"
    match kind:
        case "sparse":
            return Sparse(tensor.name, "add", _indices(0), _values(1))
        case "program":
            return Program(random.choice(by_family["float"]).name, bytes(3))
        case _:
            return Seeded(tensor.name, seed, "normal", 0.5, 0.1)


_SPOILERS: tuple[_Draw, ...] = (
    lambda random, _families: Dense(random.choice(PROTECTED), 0, bytes(8)),
    lambda random, _families: Dense("no.such.tensor", 0, bytes(random.randrange(8))),
    lambda random, _families: Seeded("nothing.*", "00" * 8, "normal", random.random(), 0.1),
    lambda random, _families: Seeded(random.choice(PROTECTED), "00" * 8, "scale", random.random(), 0.1),
    lambda random, families: Dense(random.choice(families["coded"]).name, random.randint(1, 15), bytes(3)),
    lambda random, families: _behind_the_end(random.choice(families["float"])),
    lambda random, families: Sparse(random.choice(families["float"]).name, "set", _indices(5, 5), _values(1, 2)),
    lambda random, families: Sparse(random.choice(families["float"]).name, "set", _indices(9, 1 << 40), _values(1, 2)),
    lambda random, families: Sparse(random.choice(families["float"]).name, "set", _indices(1), _values(math.inf)),
    lambda random, families: Sparse(random.choice(families["float"]).name, "add", _indices(1, 2), _values(1, math.nan)),
    lambda random, families: LowRank(
        random.choice(families["float"]).name, 1.0, floats(2, random).reshape(2, 1), floats(2, random).reshape(2, 1)
    ),
    lambda random, families: _of_another_type(random, families, random.choice(("sparse", "program", "seeded"))),
    lambda random, _families: Program(random.choice(SLOT_NAMES), random.randbytes(3 * PROGRAM_PIXELS_LIMIT + 3)),
    lambda random, _families: Program(random.choice(SLOT_NAMES), random.randbytes(4)),
    lambda random, families: Seeded(random.choice(families["coded"]).name, "0" * 16, "step", 1.0, 2.0),
    lambda random, families: Seeded(random.choice(families["coded"]).name, "0" * 16, "scale", 1.0, 1e9),
)
"""Edits that are refused, each for another reason."""
