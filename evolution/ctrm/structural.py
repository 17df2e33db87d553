"""Checks without arithmetic: whether the candidate fits this machine and its limits. Pure.

The machine checks all of this itself. Here the checks need no mutation of a shadow, and name the fault.
"""

from __future__ import annotations

import numpy as np

from evolution.ctrm.contract import Candidate, Check, CtrmFinding, Facts, at_most
from vboot.protocol.messages import TensorInfo
from vboot.protocol.tables import PROTECTED_TENSORS
from vboot.weights.arithmetic import targets
from vboot.weights.edits import pack
from vboot.weights.storage_types import all_finite


def number_of_edits(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """At least one edit, and no more than a mutation may have."""
    count, limit = len(candidate.edits), facts.limits.edits
    if not count:
        return CtrmFinding("number_of_edits", False, 0, limit, "there is no edit")
    return at_most("number_of_edits", count, limit, "the number of edits")


def size_of_blob(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """The total size of the parts of all edits, which are one upload."""
    return at_most("size_of_blob", len(pack(candidate.edits)[1]), facts.limits.blob_bytes, "the blob's size in bytes")


def known_tensors(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """Every tensor of the candidate, and every tensor that an edit names, is one of the machine's."""
    missing = sorted((candidate.before.keys() | candidate.after.keys()) - facts.tensors.keys())
    protected = _protected(facts)
    missing += [
        f"edit {number}" for number, edit in enumerate(candidate.edits) if not targets(edit, facts.tensors, protected)
    ]
    return _none("known_tensors", missing, "is not a tensor of the machine")


def unprotected(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """No tensor that the machine protects is changed, or named by an edit."""
    protected = _protected(facts)
    named = {name for edit in candidate.edits for name in targets(edit, facts.tensors, protected)}
    return _none("unprotected", sorted((named | candidate.after.keys()) & protected), "is protected")


def named_by_edits(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """The changed tensors are among those that the edits name."""
    protected = _protected(facts)
    named = {name for edit in candidate.edits for name in targets(edit, facts.tensors, protected)}
    stray = sorted(candidate.after.keys() - (named & candidate.before.keys()))
    return _none("named_by_edits", stray, "has changed although no edit names it")


def same_storage(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """Type, shape and length are those of the machine, before and after."""
    odd = [
        name
        for name, tensor in candidate.before.items()
        if not _fits(facts.tensors[name], tensor.type, tensor.shape, candidate.after.get(name, tensor.data))
        or len(tensor.data) != facts.tensors[name].bytes
    ]
    return _none("same_storage", odd, "has another type, shape or length than the machine's")


def changes_something(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """At least one byte differs: rounding may cancel a small edit."""
    changed = sum(candidate.before[name].data != data for name, data in candidate.after.items())
    text = f"{changed} tensors have changed" if changed else "the edits change nothing"
    return CtrmFinding("changes_something", changed > 0, changed, 1, text)


def finite(candidate: Candidate, facts: Facts) -> CtrmFinding:
    """No element, and no block's scale, is infinite or NaN."""
    bad = [
        name
        for name, data in candidate.after.items()
        if not all_finite(facts.tensors[name].type, np.frombuffer(data, np.uint8))
    ]
    return _none("finite", bad, "has values that are not finite")


CHECKS: tuple[Check, ...] = (
    number_of_edits,
    size_of_blob,
    known_tensors,
    unprotected,
    named_by_edits,
    same_storage,
    changes_something,
    finite,
)


def _protected(facts: Facts) -> set[str]:
    """The machine's own tensors are protected even if the list of tensors does not say so."""
    return {info.name for info in facts.terrain if info.protected or info.name in PROTECTED_TENSORS}


def _fits(info: TensorInfo, kind: str, shape: tuple[int, ...], data: bytes) -> bool:
    return (info.type, tuple(info.shape), info.bytes) == (kind, tuple(shape), len(data))


def _none(check: str, found: list[str], what: str) -> CtrmFinding:
    """The finding of a check that `found` must be empty; it names the first entry."""
    if not found:
        return CtrmFinding(check, True, 0, 0, f"nothing {what}")
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return CtrmFinding(check, False, len(found), 0, f"{found[0]!r} {what}{more}")
