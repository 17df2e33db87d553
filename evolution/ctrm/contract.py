"""The data of the checks on a candidate mutation (CTRM): the candidate, the facts, and a check's finding. Pure.

A check is a function `(candidate, facts) -> CtrmFinding`, or None where it does not apply. Checks run in the order of
`judge.CHECKS` up to the first that fails, so each may rely on those before it having passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from evolution.ctrm.drift import Drift, drift
from evolution.fitness.contract import Evaluation
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import TensorData
from vboot.weights.edits import Edit


@dataclass(frozen=True)
class CtrmLimits:
    """The limits for a candidate. Those on weights come from measurements: `docs/ctrm-calibration.md`.

    edits: number of edits. blob_bytes: the total size of their parts, which are one upload.
    vector_norm: relative norm of the change of all biases and norms together. matrix_norm: of one matrix.
    total_norm: of all together, see `statistical.total_norm`.
    rms_ratio, block_scale_ratio: factor by which a tensor's root mean square, or its block scales, grow or shrink.
    saturation: growth of the share of elements at the end of their type's range.
    outlier: greatest element relative to the greatest before. degradation: relative fall of the calibration score.
    spread_lost: relative loss of distance between the embeddings of different texts.
    """

    edits: int = 256
    blob_bytes: int = 1 << 30
    vector_norm: float = 0.25
    matrix_norm: float = 1.0
    total_norm: float = 1.5
    rms_ratio: float = 1.5
    block_scale_ratio: float = 2.5
    saturation: float = 0.01
    outlier: float = 2.5
    degradation: float = 0.05
    spread_lost: float = 0.5


@dataclass(frozen=True)
class Candidate:
    """Edits, and the weights that they give when applied to `base_generation`.

    `before` holds the tensors that the edits name, `after` the new bytes of those that they change.
    """

    edits: tuple[Edit, ...]
    base_generation: int
    before: Mapping[str, TensorData]
    after: Mapping[str, bytes]

    @cached_property
    def drifts(self) -> Mapping[str, Drift]:
        """The drift of each changed tensor whose type can be decoded to floats; `after` has whole tensors."""
        found = {name: drift(self.before[name], data) for name, data in self.after.items()}
        return {name: change for name, change in found.items() if change is not None}


@dataclass(frozen=True)
class Measured(Evaluation):
    """An evaluation, and the mean cosine of two different texts: near 1 if all texts get the same vector."""

    mean_cosine: float


@dataclass(frozen=True)
class ShadowResult:
    """Results on the calibration data before and after the edits; `after` is None if not all were finite."""

    before: Measured
    after: Measured | None


@dataclass(frozen=True)
class Facts:
    """The known facts: the machine's tensors (`terrain`), the limits, a shadow's result (None: not tried yet)."""

    terrain: tuple[TensorInfo, ...]
    limits: CtrmLimits = CtrmLimits()
    shadow: ShadowResult | None = None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The terrain by name."""
        return {info.name: info for info in self.terrain}


@dataclass(frozen=True)
class CtrmFinding:
    """The result of a check: a value and its limit, and both in one sentence."""

    check: str
    passed: bool
    value: float
    limit: float
    text: str


Check: TypeAlias = Callable[[Candidate, Facts], CtrmFinding | None]


def at_most(check: str, value: float, limit: float, what: str) -> CtrmFinding:
    """The finding of a check `value <= limit`, which NaN fails; `what` describes the value."""
    passed = value <= limit
    return CtrmFinding(
        check, passed, value, limit, f"{what} is {value:.4g}, {'within' if passed else 'above'} {limit:.4g}"
    )
