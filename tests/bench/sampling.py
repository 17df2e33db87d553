"""Measures contenders in turns: sample by sample, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def alternate(contenders: Mapping[str, Callable[[], T]], *, rounds: int, warm_up: int = 0) -> dict[str, tuple[T, ...]]:
    """Run every contender once a round and return their samples; those of one round stand at the same index.

    Each round begins with another contender, so that none always follows the same one. The samples of the first
    `warm_up` rounds are dropped.
    """
    names = list(contenders)
    samples: dict[str, list[T]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = contenders[name]()
            if number >= warm_up:
                samples[name].append(sample)
    return {name: tuple(values) for name, values in samples.items()}
