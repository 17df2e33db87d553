"""Trial of edits in a shadow: a second machine with the weights of the live one, in a child process.

    before = measure(shadow, fitness)
    result = evaluate_shadow(shadow, edits, fitness, before=before)

The shadow is the client of a `RustNeuralBridge`. Afterwards it has its former weights again, bit for bit, also after an
error.
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
    """The result of the current weights on some pairs (None: the calibration data).

    Raises what `MachineClient.embed` raises; MachineError when an embedding is not finite and of length 1.
    """
    spread = _Spread(lambda texts: shadow.embed(texts).vectors)
    evaluation = fitness.evaluate(spread.embed, fitness.search.calibration if pairs is None else pairs)
    return Measured(evaluation.score, evaluation.items, spread.mean_cosine)


def measure_finite(shadow: MachineClient, fitness: Fitness, pairs: Sequence[Pair] | None = None) -> Measured | None:
    """As `measure`; None if an embedding is not finite."""
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
    """The shadow with the edits applied, for the length of a `with` block.

    Raises RequestRefusedError if the machine refuses the edits, LinkLostError if the shadow dies of them,
    MachineTimeoutError.
    """
    base = shadow.hello().generation
    try:
        shadow.mutate(edits, confidence=1.0, base_generation=base, origin=_ORIGIN, wait=True)
        yield
    finally:
        # Asked again: after a lost reply it is not known whether the edits were applied.
        if shadow.hello().generation != base:
            shadow.rollback(base, reason="trial in a shadow")


def evaluate_shadow(
    shadow: MachineClient, edits: Sequence[Edit], fitness: Fitness, *, before: Measured | None = None
) -> ShadowResult:
    """The results on the calibration data before and after the edits. The shadow keeps its weights.

    `before` is the result of `measure` for the same weights (None: measure it). Raises what `measure` and `trying` do.
    """
    before = measure(shadow, fitness) if before is None else before
    with trying(shadow, edits):
        return ShadowResult(before, measure_finite(shadow, fitness))


class _NotFiniteError(MachineError):
    """An embedding is not finite or not of length 1."""


class _Spread:
    """Wraps `embed`: checks each embedding and sums them for the mean cosine."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._sum: NDArray[np.float64] | float = 0.0
        self._count = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._embed(texts)
        wide = vectors.astype(np.float64)
        with np.errstate(invalid="ignore"):
            lengths = np.sqrt((wide * wide).sum(axis=1))
        if not (np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all():  # false for NaN, too
            raise _NotFiniteError(
                "an embedding is not finite and of length 1", remedy="roll back what changed the weights"
            )
        self._sum = self._sum + wide.sum(axis=0)
        self._count += len(vectors)
        return vectors

    @property
    def mean_cosine(self) -> float:
        """For n vectors of length 1 with the sum s, the n (n - 1) cosines of two different ones add up to |s|^2 - n."""
        if self._count < 2:
            return 0.0
        return float(np.square(self._sum).sum() - self._count) / (self._count * (self._count - 1))
