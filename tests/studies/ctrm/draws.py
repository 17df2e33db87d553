"""Random candidates of every kind, from harmless to harmful. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np

from vboot.protocol.messages import TensorInfo
from vboot.weights.edits import Edit, LowRank, Seeded

_MATRICES = (*(f"blk.*.attn_{part}.weight" for part in ("q", "k", "v", "output")), "blk.*.ffn_*.weight")
_VECTORS = ("*.bias", "*_norm.weight")
_SPREAD = 4.0
"""Sizes are drawn from a tier's size over this to its size times this, uniformly in the logarithm."""


@dataclass(frozen=True)
class Draw:
    """A candidate of a tier: its edits are proportional to `size`."""

    tier: str
    size: float
    edits: tuple[Edit, ...]


_Make: TypeAlias = Callable[[np.random.Generator, Sequence[TensorInfo], float], list[Edit]]


def _seeded(patterns: Sequence[str], form: str, density: float) -> _Make:
    def make(random: np.random.Generator, _infos: Sequence[TensorInfo], size: float) -> list[Edit]:
        seed = f"{int(random.integers(1 << 63)):016x}"
        if form == "step":
            return [Seeded(pattern, seed, "step", min(1.0, size), 1.0) for pattern in patterns]
        return [Seeded(pattern, seed, "scale" if form == "scale" else "normal", density, size) for pattern in patterns]

    return make


def _low_rank(random: np.random.Generator, infos: Sequence[TensorInfo], size: float) -> list[Edit]:
    return [
        LowRank(
            info.name,
            size,
            random.standard_normal((info.shape[1], 1), dtype=np.float32),
            random.standard_normal((info.shape[0], 1), dtype=np.float32),
        )
        for info in _matrices(infos)
    ]


def _one_matrix(random: np.random.Generator, infos: Sequence[TensorInfo], size: float) -> list[Edit]:
    chosen = _matrices(infos)[int(random.integers(len(_matrices(infos))))]
    return _seeded((chosen.name,), "normal", 1.0)(random, infos, size)


_FLOAT_TIERS: Mapping[str, tuple[float, _Make]] = {
    "norms and biases": (0.04, _seeded(_VECTORS, "normal", 1.0)),
    "all matrices": (0.01, _seeded(_MATRICES, "normal", 1.0)),
    "all matrices, 1 %": (0.13, _seeded(_MATRICES, "normal", 0.01)),
    "one matrix": (0.08, _one_matrix),
    "token embeddings": (0.05, _seeded(("token_embd.weight",), "normal", 1.0)),
    "low rank": (0.009, _low_rank),
}
_QUANTISED_TIERS: Mapping[str, tuple[float, _Make]] = {
    "all matrices": (0.01, _seeded(_MATRICES, "normal", 1.0)),
    "block scales": (0.3, _seeded(_MATRICES, "scale", 1.0)),
    "code steps": (0.25, _seeded(_MATRICES, "step", 1.0)),
}
"""By name: the size (of code steps the density) at about which a sentence encoder starts to degrade, and the edits."""


def draws(infos: Sequence[TensorInfo], count: int, *, seed: int) -> list[Draw]:
    """`count` candidates for a model, of its tiers in turn: those of Q8_0 if it has such matrices."""
    random = np.random.Generator(np.random.Philox(key=seed))
    quantised = any(info.type == "Q8_0" for info in infos)
    tiers = list((_QUANTISED_TIERS if quantised else _FLOAT_TIERS).items())
    made = []
    for number in range(count):
        tier, (middle, make) = tiers[number % len(tiers)]
        size = middle * _SPREAD ** float(random.uniform(-1, 1))
        made.append(Draw(tier, size, tuple(make(random, infos, size))))
    return made


def _matrices(infos: Sequence[TensorInfo]) -> list[TensorInfo]:
    return [info for info in infos if any(fnmatchcase(info.name, pattern) for pattern in _MATRICES)]
