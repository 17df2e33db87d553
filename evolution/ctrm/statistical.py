"""Checks on how much the weights change. They are cheap, and refuse bad candidates before a shadow is used. Pure.

The limits are wider than any useful change needs (`docs/ctrm-calibration.md`): within them the shadow decides. Tensors
without float elements, such as the slots of programs, are not checked.

Vectors (biases, weights of norms) are judged together, because a single bias may be close to zero, and its relative
change is then meaningless. An example is the bias of the keys in attention, to which softmax is invariant.
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
    """The greatest ||after - before|| / ||before|| of a matrix."""
    matrices = {name: drift for name, drift in _drifts(candidate).items() if name != _VECTORS}
    limit = facts.limits.matrix_norm
    return _worst("matrix_norm", matrices, lambda drift: drift.relative_norm, limit, "relative change")


def total_norm(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The root of the sum of the squared relative changes of all tensors."""
    drifts = _drifts(candidate)
    if not drifts:
        return None
    total = math.hypot(*(drift.relative_norm for drift in drifts.values()))
    return at_most("total_norm", total, facts.limits.total_norm, "the relative change of all tensors together")


def rms_ratio(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The greatest factor by which the root mean square of a tensor grew or shrank."""
    limit = facts.limits.rms_ratio
    return _worst("rms_ratio", _drifts(candidate), lambda drift: drift.rms_ratio, limit, "growth of the elements")


def block_scale_ratio(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The greatest factor by which the scales of a tensor's quantised blocks grew or shrank."""
    limit, drifts = facts.limits.block_scale_ratio, _drifts(candidate)
    return _worst("block_scale_ratio", drifts, lambda drift: drift.block_scale_ratio, limit, "growth of block scales")


def saturation(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The growth of the share of elements at the end of their type's range, where further changes are lost."""
    limit = facts.limits.saturation
    return _worst("saturation", _drifts(candidate), lambda drift: drift.saturation, limit, "growth of saturation")


def outlier(candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The greatest element relative to the greatest before: the largest weights dominate activations."""
    limit = facts.limits.outlier
    return _worst("outlier", _drifts(candidate), lambda drift: drift.outlier, limit, "greatest element against before")


CHECKS: tuple[Check, ...] = (vector_norm, matrix_norm, total_norm, rms_ratio, block_scale_ratio, saturation, outlier)


def _drifts(candidate: Candidate) -> Mapping[str, Drift]:
    """The drifts to judge, by name, all vectors as one. Tensors that were all zero are left out: they have no ratio."""
    vectors = {name: drift for name, drift in candidate.drifts.items() if len(candidate.before[name].shape) == 1}
    drifts = {repr(name): drift for name, drift in candidate.drifts.items() if name not in vectors}
    if vectors:
        drifts[_VECTORS] = together(vectors.values())
    return {name: drift for name, drift in drifts.items() if drift.norm_before}


def _worst(
    check: str, drifts: Mapping[str, Drift], value_of: Callable[[Drift], float], limit: float, what: str
) -> CtrmFinding | None:
    """The finding on the tensor with the greatest value; None without tensors."""
    values = {name: value_of(drift) for name, drift in drifts.items()}
    if not values:
        return None
    name = max(values, key=lambda name: values[name])
    return at_most(check, values[name], limit, f"the {what} of {name}")
