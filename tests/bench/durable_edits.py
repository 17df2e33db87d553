"""The small changes that are made durable, and how much of them a journal has to keep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np

from vboot.weights.edits import Dense, Edit, pack

_TENSOR = "token_embd.weight"
_PLACES = 1000
_VALUES = 100
_ELEMENTS = 16
_ELEMENT_BYTES = 2


def small_edits() -> Iterator[Edit]:
    """Dense edits of 32 bytes of a matrix in F16, one after another at many places.

    A place gets other bytes than it had, also from an iterator whose edits go to several machines in turns.
    """
    for number in itertools.count():
        values = np.full(_ELEMENTS, 0.01 * ((number + number // _PLACES) % _VALUES + 1), np.float16)
        yield Dense(_TENSOR, number % _PLACES * _ELEMENTS * _ELEMENT_BYTES, values.tobytes())


def redo_bytes(edits: Sequence[Edit]) -> int:
    """How many bytes the edits have in a journal, as JSON and blob."""
    members, data = pack(edits)
    return len(json.dumps(members, separators=(",", ":"))) + len(data)
