"""The result of every operation: new bytes for some tensors, and new types for some. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vboot.weights.storage_types import Bytes


@dataclass(frozen=True)
class Change:
    """All bytes of a tensor, uint8 (n,), in the type that its operation gives it."""

    name: str
    data: Bytes


@dataclass(frozen=True)
class Operation:
    """`changes` in any order, computed lazily; a change may be equal to the old bytes.

    `types`: the new types by tensor; each of these tensors has a change. `kept`: tensors in which the files differ and
    of which the first file's are kept. `distances` (see `relation`) by file.
    """

    changes: Iterator[Change]
    types: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    distances: Mapping[str, float | None] = field(default_factory=dict)
