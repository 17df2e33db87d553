"""The tensor types that are made here."""

from __future__ import annotations

from enum import IntEnum


class TensorType(IntEnum):
    """Numbers of ggml's types; any other known type is copied by its number."""

    F32 = 0
    F16 = 1
    Q8_0 = 8
    I8 = 24
    I32 = 26
