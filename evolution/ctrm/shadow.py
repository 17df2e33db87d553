"""Trying edits in a shadow: a machine of our own that holds the same weights as the live one, in a child process.

    before = measure(shadow, fitness)
    result = evaluate_shadow(shadow, edits, fitness, before=before)

The shadow (the client of a `RustNeuralBridge`) is left with the weights that it had, to the bit, whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from evolution.ctrm.contract import Measured, ShadowResult
from evolution.fitness.contract import Embed, Fitness, Pair
from vboot.client.machine import MachineClient
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.tables import Code
from vboot.weights.edits import Edit

_ORIGIN = "shadow"
_LENGTH_TOLERANCE = 1e-3


def measure(shadow: MachineClient, fitness: Fitness, pairs: Sequence[Pair] | None = None) -> Measured:
    """How the weights as they are do on some pairs (None: the calibration data).

    Raises what `MachineClient.embed` raises; MachineError when an embedding is not finite and of length 1.
    """
    spread = _Spread(lambda texts: shadow.embed(texts).vectors)
    evaluation = fitness.evaluate(spread.embed, fitness.search.calibration if pairs is None else pairs)
    return Measured(evaluation.score, evaluation.items, spread.mean_cosine)


def measure_finite(shadow: MachineClient, fitness: Fitness, pairs: Sequence[Pair] | None = None) -> Measured | None:
    """As `measure`; None when the network gives no finite embeddings."""
    try:
        return measure(shadow, fitness, pairs)
    except _NotFiniteError:
        return None
    except RequestRefusedError as refusal:
        if refusal.code != Code.NOT_FINITE:
            raise
        return None


@contextmanager
def trying(shadow: MachineClient, edits: Sequence[Edit]) -> Iterator[None]:
    """The shadow with the edits made, for the length of a block.

    Raises RequestRefusedError when the machine refuses the edits, LinkLostError when the shadow dies of them,
    MachineTimeoutError.
    """
    base = shadow.hello().generation
    try:
        shadow.mutate(edits, confidence=1.0, base_generation=base, origin=_ORIGIN, wait=True)
        yield
    finally:
        # Looked at anew, since a lost reply leaves it open whether the edits were made.
        if shadow.hello().generation != base:
            shadow.rollback(base, reason="tried in a shadow")


def evaluate_shadow(
    shadow: MachineClient, edits: Sequence[Edit], fitness: Fitness, *, before: Measured | None = None
) -> ShadowResult:
    """The calibration data before the edits and after, the shadow left as it was.

    `before` is what `measure` gave for the same weights (None: it is measured). Raises what `measure` and `trying` do.
    """
    before = measure(shadow, fitness) if before is None else before
    with trying(shadow, edits):
        return ShadowResult(before, measure_finite(shadow, fitness))


class _NotFiniteError(MachineError):
    """An embedding is not what it must be."""


class _Spread:
    """Watches the embeddings that pass."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._sum: NDArray[np.float64] | float = 0.0
        self._count = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._embed(texts)
        wide = vectors.astype(np.float64)
        with np.errstate(invalid="ignore"):
            lengths = np.sqrt((wide * wide).sum(axis=1))
        if not (np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all():  # NaN is not either
            raise _NotFiniteError(
                "an embedding is not finite and of length 1", remedy="roll back what changed the weights"
            )
        self._sum = self._sum + wide.sum(axis=0)
        self._count += len(vectors)
        return vectors

    @property
    def mean_cosine(self) -> float:
        """Of n vectors of length 1 with the sum s, the n (n - 1) cosines of two different ones add up to |s|^2 - n."""
        if self._count < 2:
            return 0.0
        return float(np.square(self._sum).sum() - self._count) / (self._count * (self._count - 1))
