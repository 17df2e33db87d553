"""Checks on how much the weights change: cheap enough to spare a shadow what cannot be good. Pure.

The limits lie beyond what a useful change needs (`docs/ctrm-calibration.md`): within them the shadow decides. Tensors
whose elements are no numbers, such as the slots of programs, are none of their business.

Vectors (biases, weights of norms) are judged together: a bias may be next to zero, and its own relative change then
says nothing, as in the keys of an attention, which softmax does not notice at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from evolution.ctrm.contract import Candidate, Check, CtrmFinding, Facts, at_most
from evolution.ctrm.drift import Drift, together

_VECTORS = "the vectors"


def vector_norm(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """||after - before|| / ||before|| of all vectors together."""
    vectors = _drifts(candidate).get(_VECTORS)
    if vectors is None:
        return None
    return at_most("vector_norm", vectors.relative_norm, facts.limits.vector_norm, "the relative change of the vectors")


def matrix_norm(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """||after - before|| / ||before|| of the matrix that changes most."""
    matrices = {name: drift for name, drift in _drifts(candidate).items() if name != _VECTORS}
    limit = facts.limits.matrix_norm
    return _worst("matrix_norm", matrices, lambda drift: drift.relative_norm, limit, "relative change")


def total_norm(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The root of the sum of squares of the relative changes: what many tensors at once add up to."""
    drifts = _drifts(candidate)
    if not drifts:
        return None
    total = math.hypot(*(drift.relative_norm for drift in drifts.values()))
    return at_most("total_norm", total, facts.limits.total_norm, "the relative change of all tensors together")


def rms_ratio(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """How much larger or smaller the elements of a tensor have become as a whole."""
    limit = facts.limits.rms_ratio
    return _worst("rms_ratio", _drifts(candidate), lambda drift: drift.rms_ratio, limit, "growth of the elements")


def block_scale_ratio(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """How much larger or smaller the scales of quantised blocks have become."""
    limit, drifts = facts.limits.block_scale_ratio, _drifts(candidate)
    return _worst("block_scale_ratio", drifts, lambda drift: drift.block_scale_ratio, limit, "growth of block scales")


def saturation(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """How many more elements stand at the end of what their type holds, where a further change is lost."""
    limit = facts.limits.saturation
    return _worst("saturation", _drifts(candidate), lambda drift: drift.saturation, limit, "growth of saturation")


def outlier(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """Whether a single element stands out as none did before: activations follow the largest weights."""
    limit = facts.limits.outlier
    return _worst("outlier", _drifts(candidate), lambda drift: drift.outlier, limit, "greatest element against before")


CHECKS: tuple[Check, ...] = (vector_norm, matrix_norm, total_norm, rms_ratio, block_scale_ratio, saturation, outlier)


def _drifts(candidate: Candidate) -> Mapping[str, Drift]:
    """What is judged as one, by what to call it; without what was nothing but zeros, to which nothing compares."""
    vectors = {name: drift for name, drift in candidate.drifts.items() if len(candidate.before[name].shape) == 1}
    drifts = {repr(name): drift for name, drift in candidate.drifts.items() if name not in vectors}
    if vectors:
        drifts[_VECTORS] = together(vectors.values())
    return {name: drift for name, drift in drifts.items() if drift.norm_before}


def _worst(
    check: str, drifts: Mapping[str, Drift], value_of: Callable[[Drift], float], limit: float, what: str
) -> CtrmFinding | None:
    """The finding on the tensor whose value is greatest; None without any."""
    values = {name: value_of(drift) for name, drift in drifts.items()}
    if not values:
        return None
    name = max(values, key=lambda name: values[name])
    return at_most(check, values[name], limit, f"the {what} of {name}")
