"""Embeddings transformed by a kernel, for a fitness that does not know kernels. Pure.

embed = recorded(texts, vectors)                     # the model was run once
score = lambda kernel: fitness.evaluate(transformed(kernel, embed), pairs).score
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evolution.fitness.contract import Embed
from evolution.kernels import reference
from evolution.kernels.genome import EvolvedKernel
from vboot.errors import InputError


def transformed(kernel: EvolvedKernel, embed: Embed) -> Embed:
    """The embeddings transformed by the kernel. The function raises what `embed` and `reference.run` raise."""
    return lambda texts: reference.run(kernel, embed(texts))


def recorded(texts: Sequence[str], vectors: NDArray[np.float32]) -> Embed:
    """Known embeddings f32 (n, dim), one for each text. The function raises InputError for any other text.

    Raises InputError if there are not as many vectors as texts.
    """
    if vectors.ndim != 2 or len(vectors) != len(texts):
        what = f"expected {len(texts)} vectors, one for each text, got an array of shape {vectors.shape}"
        raise InputError(what, remedy="give one for each text")
    rows = {text: row for row, text in enumerate(texts)}

    def embed(wanted: Sequence[str]) -> NDArray[np.float32]:
        if unknown := [text for text in wanted if text not in rows]:
            raise InputError(f"the text {unknown[0]!r:.60} has not been embedded", remedy="embed all texts first")
        return vectors[[rows[text] for text in wanted]]

    return embed
