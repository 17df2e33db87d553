"""Whether checkpoints are related: the same tensors, with values from a common ancestor. Pure.

Fine-tuning changes weights little compared with their size. Matrices of networks with different initial weights are
almost orthogonal, even if the networks behave alike. So the distance of a tensor is |a - b| / max(|a|, |b|), in
Euclidean norms: near 0 for related ones, 1 to sqrt(2) for orthogonal ones. The distance of models is the median over
their matrices, so a newly trained head has no influence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import PROTECTED, SLOTS
from evolution.surgeon.values import is_readable, values
from vboot.errors import InputError
from vboot.weights.arithmetic import TensorData

RELATED = 0.5
"""The greatest distance of related models.

In all-MiniLM-L6-v2 the 276 pairs of matrices of equal shape, which are unrelated, have distances of 1.10 to 1.41.
Storing the model as Q8_0 changes it by 0.006.
"""


def weights(tensors: Mapping[str, TensorData]) -> dict[str, TensorData]:
    """The tensors that are the model's own."""
    return {name: tensor for name, tensor in tensors.items() if name not in PROTECTED | SLOTS}


def require_relatives(first: GGUFFile, other: GGUFFile, *, force: bool) -> float | None:
    """The distance of two files. Raises InputError if they are not related; with `force` the distance may be any."""
    apart = f"{first.path} and {other.path} are not related"
    if first.architecture != other.architecture:
        what = f"{apart}: one is of architecture {first.architecture!r}, one of {other.architecture!r}"
        raise InputError(what, remedy="give files of one architecture")
    ours, theirs = weights(first.tensors), weights(other.tensors)
    if missing := sorted(ours.keys() ^ theirs.keys()):
        raise InputError(f"{apart}: only one has a tensor {missing[0]!r}", remedy="give files with the same tensors")
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            what = f"{apart}: {name!r} is {list(tensor.shape)} in one, {list(theirs[name].shape)} in the other"
            raise InputError(what, remedy="give files with the same shapes")
    found = distance(ours, theirs)
    if found is None and not force:
        what = f"{apart}, or it cannot be known: they hold values that are not finite or cannot be decoded"
        raise InputError(what, remedy="give files of related models, or use `force` if you know that they are")
    if found is not None and found > RELATED and not force:
        what = f"{apart}: their distance is {found:.2f}, above {RELATED:g}"
        raise InputError(what, remedy="give files of related models, or use `force` if you know that they are")
    return found


def distance(ours: Mapping[str, TensorData], theirs: Mapping[str, TensorData]) -> float | None:
    """The median distance of the matrices of two models with the same tensors.

    None if no values can be compared, or values that differ are not finite.
    """
    pairs = [(tensor, theirs[name]) for name, tensor in ours.items()]
    comparable = [(a, b) for a, b in pairs if is_readable(a.type) and is_readable(b.type)]
    matrices = [(a, b) for a, b in comparable if len(a.shape) > 1]
    found = [_distance(a, b) for a, b in matrices or comparable]
    return float(np.median(found)) if found and all(map(math.isfinite, found)) else None


def _distance(a: TensorData, b: TensorData) -> float:
    if a.type == b.type and a.data == b.data:
        return 0.0
    delta = ours = theirs = 0.0
    with np.errstate(all="ignore"):  # values that are not finite give no distance
        for x, y in zip(values(a), values(b), strict=True):
            delta += float(np.square(x - y).sum())
            ours += float(np.square(x).sum())
            theirs += float(np.square(y).sum())
    norm = max(ours, theirs)
    return math.sqrt(delta / norm) if norm else 0.0
