"""How alike embeddings are. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cosine_similarities(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of the angle between any two of n vectors: float32 [n, dim] to float64 [n, n], from -1 to 1.

    A vector of zeros has no direction, and 0 with any other.
    """
    wide = vectors.astype(np.float64)
    # float64 holds the square of any float32, so neither overflows.
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    directions = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    cosines: NDArray[np.float64] = np.clip(directions @ directions.T, -1.0, 1.0)
    return cosines
