"""What the checks on a candidate mutation speak of: the candidate, the facts, and what a check finds. Pure.

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
    """What a candidate may do at most. The numbers of the weights are measured: `docs/ctrm-calibration.md`.

    edits: of a mutation. blob_bytes: their parts together, what a machine takes as one upload.
    vector_norm: relative norm of the change of all biases and norms together. matrix_norm: of one matrix.
    total_norm: of all together, see `statistical.total_norm`.
    rms_ratio, block_scale_ratio: a tensor's size, and that of its block scales, against before, up or down.
    saturation: growth of the share of elements at the end of their type's range.
    outlier: greatest element against the greatest before. degradation: of the score on the calibration data, relative.
    spread_lost: how much nearer to each other the embeddings of different texts may come, relative.
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
    """Edits, and what they make of the weights of `base_generation`.

    `before` holds the tensors that the edits touch, `after` the new bytes of those that they change.
    """

    edits: tuple[Edit, ...]
    base_generation: int
    before: Mapping[str, TensorData]
    after: Mapping[str, bytes]

    @cached_property
    def drifts(self) -> Mapping[str, Drift]:
        """How each changed tensor whose elements are known as numbers has changed; whole tensors of the same length."""
        found = {name: drift(self.before[name], data) for name, data in self.after.items()}
        return {name: change for name, change in found.items() if change is not None}


@dataclass(frozen=True)
class Measured(Evaluation):
    """An evaluation, and the mean cosine of any two texts in it: near 1 when the model cannot tell texts apart."""

    mean_cosine: float


@dataclass(frozen=True)
class ShadowResult:
    """The calibration data before and after the edits, in a shadow; `after` is None: its embeddings were not finite."""

    before: Measured
    after: Measured | None


@dataclass(frozen=True)
class Facts:
    """What is known of the machine: its tensors, the limits, and what a shadow showed (None: not tried yet)."""

    terrain: tuple[TensorInfo, ...]
    limits: CtrmLimits = CtrmLimits()
    shadow: ShadowResult | None = None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The terrain by name."""
        return {info.name: info for info in self.terrain}


@dataclass(frozen=True)
class CtrmFinding:
    """What a check found: a value against its limit, in one sentence."""

    check: str
    passed: bool
    value: float
    limit: float
    text: str


Check: TypeAlias = Callable[[Candidate, Facts], CtrmFinding | None]


def at_most(check: str, value: float, limit: float, what: str) -> CtrmFinding:
    """The finding that a value must not exceed its limit (NaN does): `what` says of what the value is, and where."""
    passed = value <= limit
    return CtrmFinding(
        check, passed, value, limit, f"{what} is {value:.4g}, {'within' if passed else 'above'} {limit:.4g}"
    )
