"""The edits that turn the bytes of a tensor into other bytes, in as few bytes as possible. Pure.

found = difference("blk.0.attn_q.weight", "F16", before, after)
edits = found.edits(most=8) if found else ()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vboot.weights.edits import Dense, Edit, Sparse
from vboot.weights.storage_types import Bytes, block_of, decode, encode

EDIT_BYTES = 96
"""About how many bytes an edit needs beside its data: its members in the request."""
_SPARSE_TYPES = frozenset({"F32", "F16", "BF16"})
"""Types whose elements can be set to any finite value of theirs: in Q8_0 that rounds the whole block again."""
_SPARSE_BYTES = 12
"""An index and a value."""
_PIECE_BLOCKS = 1 << 20


@dataclass(frozen=True, eq=False)
class TensorDifference:
    """How the stored bytes of a tensor differ: the numbers of its `changed` blocks, increasing, and its new bytes."""

    name: str
    kind: str
    changed: NDArray[np.int64]
    after: Bytes

    def edits(self, most: int) -> tuple[Edit, ...]:
        """At most `most` edits (1 or more) that make it: single elements, or ranges, whichever are fewer bytes."""
        sparse, ranges = self._form(most)
        if sparse is not None:
            return (sparse,)
        size = block_of(self.kind).bytes
        return tuple(
            Dense(self.name, start * size, self.after[start * size : end * size].tobytes()) for start, end in ranges
        )

    def cost(self, most: int) -> tuple[int, int]:
        """The number of these edits, and the bytes of their data."""
        sparse, ranges = self._form(most)
        if sparse is not None:
            return 1, _SPARSE_BYTES * len(self.changed)
        return len(ranges), sum(end - start for start, end in ranges) * block_of(self.kind).bytes

    def split(self, limit: int) -> Iterator[TensorDifference]:
        """The same in parts of at most `limit` bytes of the tensor each (a block or more)."""
        step = max(1, limit // block_of(self.kind).bytes)
        parts = np.split(self.changed, np.flatnonzero(np.diff(self.changed // step)) + 1)
        return (replace(self, changed=part) for part in parts)

    def _form(self, most: int) -> tuple[Sparse | None, list[tuple[int, int]]]:
        """The single elements if they are fewer bytes than the ranges, and the ranges."""
        ranges = self._ranges(most)
        size = block_of(self.kind).bytes
        dense = sum((end - start) * size + EDIT_BYTES for start, end in ranges)
        is_sparse = _SPARSE_BYTES * len(self.changed) + EDIT_BYTES < dense
        return self._sparse() if is_sparse else None, ranges

    def _ranges(self, most: int) -> list[tuple[int, int]]:
        """Ranges of blocks that hold all changed ones, split where that saves bytes, at the widest gaps first."""
        gaps = np.diff(self.changed) - 1
        splits = np.flatnonzero(gaps * block_of(self.kind).bytes > EDIT_BYTES)
        if len(splits) >= most:
            widest = np.argsort(gaps[splits], kind="stable")[len(splits) - most + 1 :]
            splits = np.sort(splits[widest])
        starts = self.changed[np.concatenate([[0], splits + 1])]
        ends = self.changed[np.concatenate([splits, [len(self.changed) - 1]])] + 1
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def _sparse(self) -> Sparse | None:
        """The same as single elements; None if that would not give the same bits."""
        if self.kind not in _SPARSE_TYPES:
            return None
        stored = self.after.reshape(-1, block_of(self.kind).bytes)[self.changed].reshape(-1)
        values = decode(self.kind, stored)
        if not np.isfinite(values).all() or not np.array_equal(encode(self.kind, values), stored):
            return None
        return Sparse(self.name, "set", self.changed.astype(np.uint64), values)


def difference(name: str, kind: str, before: Bytes, after: Bytes) -> TensorDifference | None:
    """The difference between the bytes of a tensor of type `kind`, uint8 (n,) of equal length; None: there is none."""
    size = block_of(kind).bytes
    step = _PIECE_BLOCKS * size
    found = []
    for start in range(0, len(after), step):
        unequal = before[start : start + step] != after[start : start + step]
        if unequal.any():
            found.append(np.flatnonzero(unequal.reshape(-1, size).any(axis=1)) + start // size)
    return TensorDifference(name, kind, np.concatenate(found), after) if found else None
