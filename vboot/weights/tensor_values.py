"""How the bytes of a tensor are read as numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(f"<{code}")
    for name, code in {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}.items()
}


def element_dtype(tensor_type: str) -> np.dtype[Any] | None:
    """The little-endian numpy dtype of a ggml type's elements; None for a type of blocks, or one numpy lacks (BF16)."""
    return _DTYPES.get(tensor_type)
