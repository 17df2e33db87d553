"""The golden vectors of all-MiniLM-L6-v2; make_golden_embeddings.py says what they are and how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VECTORS = Path(__file__).parents[1] / "vectors" / "embedding"
LIMIT = 512
"""The most ids of a text, [CLS] and [SEP] included."""


@dataclass(frozen=True)
class GoldenText:
    """A text, its token ids, and its normalised embedding, float32 [384]."""

    text: str
    ids: list[int]
    embedding: NDArray[np.float32]


def golden_texts() -> list[GoldenText]:
    """All of them, in the order of the files."""
    texts = json.loads((VECTORS / "texts.json").read_text("ascii"))
    embeddings: NDArray[np.float32] = np.load(VECTORS / "embeddings.npy")
    return [GoldenText(text["text"], text["ids"], row) for text, row in zip(texts, embeddings, strict=True)]
