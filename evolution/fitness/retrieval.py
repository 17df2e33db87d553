"""The fitness of an encoder: minus the InfoNCE loss of finding a query's document among those of a batch. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from evolution.fitness.contract import Embed, Evaluation, Pair, SearchData
from evolution.fitness.contrastive import Quantised, info_nce, quantise
from evolution.fitness.likeness import Likeness
from evolution.fitness.split import pair_digest
from vboot.errors import InputError

TEMPERATURE = 0.05
BATCH_SIZE = 64
DOCUMENT_CHARACTERS = 200
"""The beginning of a description says what the package is. The limit bounds the time to embed a text."""
NEIGHBOURS = 7
"""For each random pair of a batch so many pairs with similar documents (hard negatives)."""

_DOMAIN = b"vector_boot batch 1"


class RetrievalFitness:
    """Minus the mean InfoNCE loss of a batch, each query against all documents of the batch."""

    def __init__(
        self,
        search: SearchData,
        *,
        seed: int,
        batch_size: int = BATCH_SIZE,
        temperature: float = TEMPERATURE,
        document_chars: int = DOCUMENT_CHARACTERS,
        neighbours: int = NEIGHBOURS,
    ) -> None:
        """`seed` (0 to 2^64 - 1) chooses the batches, of at most `batch_size` pairs. Raises InputError for bad numbers.

        A batch has pairs drawn at random, each followed by `neighbours` pairs with the most similar documents (hard
        negatives); 0 draws all at random. Texts are cut to `document_chars` characters. The lower the
        temperature, the more the most similar wrong document counts.
        """
        check_settings(batch_size=batch_size, temperature=temperature, document_chars=document_chars)
        if not 0 <= seed < 1 << 64:
            raise InputError(f"expected a seed from 0 to 2^64 - 1, got {seed}", remedy="choose another seed")
        if neighbours < 0:
            raise InputError(f"expected 0 or more neighbours, got {neighbours}", remedy="give 0 or more")
        self._search = search
        self._seed = seed
        self._batch_size = batch_size
        self._temperature = temperature
        self._document_chars = document_chars
        # In the order of their content, so that the order of `train` does not matter.
        self._train = tuple(sorted(((pair_digest(pair), pair) for pair in search.train), key=lambda entry: entry[0]))
        self._neighbours = neighbours
        self._likeness = Likeness([self._shown(pair).document for _, pair in self._train]) if neighbours else None

    @property
    def search(self) -> SearchData:
        """The data of the search."""
        return self._search

    def batch(self, number: int) -> tuple[Pair, ...]:
        """Pairs of train by a keyed hash of (seed, number), each followed by its neighbours; no text twice.

        The order of train does not matter.
        """
        key = hashlib.sha256(_DOMAIN + self._seed.to_bytes(8, "little") + number.to_bytes(8, "little")).digest()
        drawn = sorted(range(len(self._train)), key=lambda place: hashlib.sha256(key + self._train[place][0]).digest())
        seen: set[tuple[str, str]] = set()
        chosen: list[Pair] = []
        for place in drawn:
            if self._is_new(place, seen):
                most = min(len(chosen) + 1 + self._neighbours, self._batch_size)
                for member in (place, *self._like(place)):
                    if len(chosen) < most and self._is_new(member, seen):
                        seen |= self._texts(member)
                        chosen.append(self._train[member][1])
            if len(chosen) == self._batch_size:
                break
        return tuple(chosen)

    def evaluate(self, embed: Embed, pairs: Sequence[Pair]) -> Evaluation:
        """Minus the loss of each query, and the mean. Calls `embed` once, with all distinct queries, then documents.

        Documents of the same query, and equal documents, do not count against each other. Raises what `embed` raises;
        InputError for fewer than two pairs, and for embeddings that are not of length 1.
        """
        shown, queries, documents = embedded(embed, pairs, document_chars=self._document_chars)
        losses = info_nce(shown, queries, documents, temperature=self._temperature)
        items = tuple(-loss for loss in losses)
        return Evaluation(math.fsum(items) / len(items), items)

    def _like(self, place: int) -> list[int]:
        return [] if self._likeness is None else self._likeness.ranked(place)[: 4 * self._neighbours].tolist()

    def _texts(self, place: int) -> set[tuple[str, str]]:
        shown = self._shown(self._train[place][1])
        return {("query", shown.query), ("document", shown.document)}

    def _is_new(self, place: int, seen: set[tuple[str, str]]) -> bool:
        return seen.isdisjoint(self._texts(place))

    def _shown(self, pair: Pair) -> Pair:
        return _shortened(pair, self._document_chars)


def check_settings(*, batch_size: int, temperature: float, document_chars: int) -> None:
    """Raises InputError for values out of range."""
    if batch_size < 2 or document_chars < 1:
        what = f"a batch of {batch_size} pairs, or a text of {document_chars} characters, is too small"
        raise InputError(what, remedy="give 2 pairs or more, and 1 character or more")
    if not 1e-3 <= temperature <= 1e3:
        raise InputError(
            f"expected a temperature from 0.001 to 1000, got {temperature}", remedy="choose one in this range"
        )


def embedded(embed: Embed, pairs: Sequence[Pair], *, document_chars: int) -> tuple[list[Pair], Quantised, Quantised]:
    """The pairs with shortened texts, and the embeddings of queries and documents, each (pairs, dim).

    Raises what `embed` raises; InputError for fewer than two pairs, and for embeddings that are not of length 1.
    """
    if len(pairs) < 2:
        raise InputError(f"expected two or more pairs, got {len(pairs)}", remedy="give more pairs")
    shown = [_shortened(pair, document_chars) for pair in pairs]
    queries, documents = [pair.query for pair in shown], [pair.document for pair in shown]
    row = {text: number for number, text in enumerate(dict.fromkeys(queries + documents))}
    vectors = embed(list(row))
    if vectors.ndim != 2 or len(vectors) != len(row):
        what = f"expected {len(row)} embeddings, got an array of shape {vectors.shape}"
        raise InputError(what, remedy="return one embedding for each text")
    whole = quantise(vectors)
    return shown, whole[[row[text] for text in queries]], whole[[row[text] for text in documents]]


def shorten(text: str, characters: int) -> str:
    """The text cut to at most `characters`: its first whole words, or the beginning of its first word."""
    if len(text) <= characters:
        return text
    start, space, _ = text[: characters + 1].rpartition(" ")
    return start.rstrip() if space and start.strip() else text[:characters]


def _shortened(pair: Pair, characters: int) -> Pair:
    return Pair(shorten(pair.query, characters), shorten(pair.document, characters))
