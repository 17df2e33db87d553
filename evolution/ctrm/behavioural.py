"""Checks on the embeddings of the changed model, measured in a shadow. Pure. Without a shadow none of them applies."""

from __future__ import annotations

import math

from evolution.ctrm.contract import Candidate, Check, CtrmFinding, Facts, at_most

_LEAST_SPREAD = 1e-6
"""With a smaller spread (1 - mean cosine) all texts have the same embedding, and no spread can be lost."""


def finite_embeddings(_candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """Every embedding is finite."""
    if facts.shadow is None:
        return None
    finite = facts.shadow.after is not None
    text = "all embeddings are finite" if finite else "the embeddings are not finite"
    return CtrmFinding("finite_embeddings", finite, 0.0 if finite else math.inf, 0.0, text)


def spread_lost(_candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The embeddings of different texts have not become alike: the relative loss of 1 - their mean cosine."""
    if facts.shadow is None or facts.shadow.after is None:
        return None
    before, after = 1 - facts.shadow.before.mean_cosine, 1 - facts.shadow.after.mean_cosine
    if before < _LEAST_SPREAD:
        return None
    what = "the lost share of the distance between embeddings"
    return at_most("spread_lost", 1 - after / before, facts.limits.spread_lost, what)


def degradation(_candidate: Candidate, facts: Facts) -> CtrmFinding | None:
    """The score on the calibration data has not fallen by more than the limit. A score of 0 may not fall at all."""
    if facts.shadow is None or facts.shadow.after is None:
        return None
    before, after = facts.shadow.before.score, facts.shadow.after.score
    if before == 0:
        return at_most("degradation", before - after, 0.0, "the fall of the score on the calibration data")
    what = "the relative fall of the score on the calibration data"
    return at_most("degradation", (before - after) / abs(before), facts.limits.degradation, what)


CHECKS: tuple[Check, ...] = (finite_embeddings, spread_lost, degradation)
