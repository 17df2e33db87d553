"""What every operation comes to: new bytes for some tensors, new types for those stored otherwise. Pure."""

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
    """`changes` in any order, each made when it is asked for; they may repeat what is there.

    `types` by tensor: those that get another one; each has a change. `kept` are tensors in which the files differ and
    that stay the first's; `distances` (see `relation`) by file.
    """

    changes: Iterator[Change]
    types: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    distances: Mapping[str, float | None] = field(default_factory=dict)
