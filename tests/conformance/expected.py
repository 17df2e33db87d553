"""Edits as the suite writes them, and what the whole machine must hold after them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.conformance import reference
from tests.conformance.model import mutable
from tests.conformance.reference import F32


@dataclass(frozen=True)
class Edit:
    """One edit without its `blob` member, and its part of the blob (none where empty)."""

    members: dict[str, Any]
    part: bytes = b""


def dense(tensor: str, offset: int, part: bytes) -> Edit:
    """Storage bytes."""
    return Edit({"kind": "dense", "tensor": tensor, "offset": offset}, part)


def sparse(tensor: str, op: str, indices: Iterable[int], operands: Iterable[float]) -> Edit:
    """Elements set or added to."""
    with np.errstate(over="ignore"):
        part = np.array(list(indices), "<u8").tobytes() + np.array(list(operands), "<f4").tobytes()
    return Edit({"kind": "sparse", "tensor": tensor, "op": op}, part)


def low_rank(tensor: str, a: F32, b: F32, scale: float) -> Edit:
    """`a` is [ne1, r], `b` [ne0, r]."""
    part = a.astype("<f4").tobytes() + b.astype("<f4").tobytes()
    return Edit({"kind": "low_rank", "tensor": tensor, "rank": a.shape[1], "scale": scale}, part)


def seeded(tensors: str, form: str, *, seed: str = "0123456789abcdef", density: float = 0.5, scale: float = 1) -> Edit:
    """Noise of a seed."""
    members = {"kind": "seeded", "tensors": tensors, "seed": seed, "form": form, "density": density, "scale": scale}
    return Edit(members)


def program(tensor: str, pixels: bytes) -> Edit:
    """Pixels for a slot."""
    return Edit({"kind": "program", "tensor": tensor}, pixels)


def assemble(edits: Iterable[Edit]) -> tuple[list[dict[str, Any]], bytes | None]:
    """The `edits` member of a request and its blob: the parts in order, one behind the other."""
    members, blob = [], b""
    for edit in edits:
        own = dict(edit.members)
        if edit.part:
            own["blob"] = [len(blob), len(edit.part)]
            blob += edit.part
        members.append(own)
    return members, blob or None


def _sparse(kind: str, data: bytes, edit: Edit) -> bytes:
    count = len(edit.part) // 12
    indices = [int(index) for index in np.frombuffer(edit.part, "<u8", count)]
    operands = [float(value) for value in np.frombuffer(edit.part, "<f4", count, offset=8 * count)]
    return reference.sparse(kind, data, edit.members["op"], indices, operands)


def _low_rank(name: str, data: bytes, edit: Edit) -> bytes:
    columns, rows = mutable()[name].shape
    rank = edit.members["rank"]
    numbers = np.frombuffer(edit.part, "<f4")
    a, b = numbers[: rows * rank].reshape(rows, rank), numbers[rows * rank :].reshape(columns, rank)
    return reference.low_rank(mutable()[name].kind, data, a=a, b=b, scale=edit.members["scale"])


def _one(name: str, data: bytes, edit: Edit) -> bytes:
    kind = mutable()[name].kind
    match edit.members["kind"]:
        case "dense":
            return reference.dense(data, edit.members["offset"], edit.part)
        case "sparse":
            return _sparse(kind, data, edit)
        case "low_rank":
            return _low_rank(name, data, edit)
        case "seeded":
            return reference.seeded(kind, name, data, edit.members)
        case "program":
            count = (len(edit.part) // 3).to_bytes(4, "little")
            return reference.dense(data, 0, count + edit.part)
    raise AssertionError(edit.members["kind"])


def after(contents: Mapping[str, bytes], edits: Iterable[Edit]) -> dict[str, bytes]:
    """All unprotected tensors once the edits were applied in order."""
    held = dict(contents)
    for edit in edits:
        glob = str(edit.members.get("tensors") or edit.members["tensor"])
        for name in [name for name in held if fnmatch.fnmatchcase(name, glob)]:
            held[name] = _one(name, held[name], edit)
    return held
