"""The answers that show embeddings of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.answer import Answer, columns
from cli.streams import warn
from vboot.client.inference import cosine_similarities
from vboot.protocol.messages import Embeddings
from vboot.text import printable

_NUMBERS_SHOWN = 4
_TEXT_WIDTH = 48
_COMPARED_MOST = 16
"""A larger matrix of similarities does not fit a terminal."""


def embeddings_answer(texts: Sequence[str], made: Embeddings, *, with_vectors: bool = True) -> Answer:
    """Each text with its number of tokens and its first numbers; for 2 to 16 texts also their cosine similarities.

    `with_vectors`: whether the data for --json holds the embeddings.
    """
    compared = 2 <= len(texts) <= _COMPARED_MOST
    similarities = cosine_similarities(made.vectors) if compared else None
    rows: list[dict[str, Any]] = [
        {"text": text, "tokens": tokens, "truncated": truncated} | ({"embedding": vector} if with_vectors else {})
        for text, tokens, truncated, vector in zip(
            texts, made.tokens, made.truncated, made.vectors.tolist(), strict=True
        )
    ]
    data = {
        "generation": made.generation,
        "dim": made.vectors.shape[1],
        "texts": rows,
        "similarities": None if similarities is None else similarities.tolist(),
    }
    return Answer(
        data,
        _table(texts, made) + ("" if similarities is None else f"\n\n{_matrix(similarities)}"),
        report_only=with_vectors,
    )


def warn_of_truncation(made: Embeddings) -> None:
    """Print one line to stderr if texts were cut at the model's limit."""
    limits = [tokens for tokens, truncated in zip(made.tokens, made.truncated, strict=True) if truncated]
    if limits:
        which = f"{len(limits)} of {len(made.truncated)} texts" if len(made.truncated) > 1 else "the text"
        warn(f"{which} had more than {max(limits)} tokens, the model's limit: the tokens after it were ignored")


def similarity_answer(text: str, other: str, made: Embeddings) -> Answer:
    """The cosine similarity of two texts."""
    similarity = float(cosine_similarities(made.vectors)[0, 1])
    data = {"generation": made.generation, "texts": [text, other], "similarity": similarity}
    return Answer(data, f"{similarity:.4f} (generation {made.generation})")


def pairs(similarities: NDArray[np.float64]) -> str:
    """The similarity of each text to each later one: "1-2: 0.704, 1-3: -0.021"."""
    count = len(similarities)
    each = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return ", ".join(f"{i + 1}-{j + 1}: {similarities[i, j]:.3f}" for i, j in each)


def _table(texts: Sequence[str], made: Embeddings) -> str:
    dim = made.vectors.shape[1]
    title = ("", "tokens", f"first of {dim} numbers, generation {made.generation}", "text")
    return columns(
        [
            title,
            *(
                (f"{number}", f"{tokens:>6}", " ".join(f"{x:8.4f}" for x in vector[:_NUMBERS_SHOWN]), _shown(text))
                for number, (text, tokens, vector) in enumerate(zip(texts, made.tokens, made.vectors, strict=True), 1)
            ),
        ]
    )


def _matrix(similarities: NDArray[np.float64]) -> str:
    numbers = [str(number) for number in range(1, len(similarities) + 1)]
    rows = [[number, *map(_cosine, row)] for number, row in zip(numbers, similarities, strict=True)]
    return "cosine similarity\n" + columns([["", *(number.rjust(6) for number in numbers)], *rows])


def _cosine(value: float) -> str:
    return f"{value:6.3f}"


def _shown(text: str) -> str:
    return printable(text if len(text) <= _TEXT_WIDTH else f"{text[: _TEXT_WIDTH - 3]}...")
