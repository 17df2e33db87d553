"""The fitness of an encoder: how surely a query's document stands out among the documents of other queries. Pure."""

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
"""The beginning of a package's description says what it is; it bounds what a text takes a machine."""
NEIGHBOURS = 7
"""With each pair of a batch that many whose documents are like its own: where a model errs, not where it is sure."""

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

        A batch holds pairs drawn at random, each with `neighbours` pairs whose documents share most with its own
        (hard negatives); 0 draws all at random. Texts are cut to `document_chars` characters. The lower the
        temperature, the more the nearest document counts.
        """
        check_settings(batch_size=batch_size, temperature=temperature, document_chars=document_chars)
        if not 0 <= seed < 1 << 64:
            raise InputError(f"a seed of {seed} is out of range", remedy="give 0 to 2^64 - 1")
        if neighbours < 0:
            raise InputError(f"{neighbours} neighbours cannot be", remedy="give 0 or more")
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
        """The data that it was made for."""
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
        """Minus each query's loss, and the mean. One call of `embed`: all queries, then all documents, none twice.

        Documents that answer the same query, or are the same text, do not count against each other. Raises what
        `embed` raises; InputError for fewer than two pairs, and for embeddings that are not of length 1.
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
    """Raises InputError for numbers that no loss can be taken with."""
    if batch_size < 2 or document_chars < 1:
        what = f"a batch of {batch_size} pairs or a text of {document_chars} characters is too small"
        raise InputError(what, remedy="give 2 pairs or more, and 1 character or more")
    if not 1e-3 <= temperature <= 1e3:
        raise InputError(f"a temperature of {temperature} is out of range", remedy="give 0.001 to 1000")


def embedded(embed: Embed, pairs: Sequence[Pair], *, document_chars: int) -> tuple[list[Pair], Quantised, Quantised]:
    """The pairs as the model is shown them, and the embeddings of queries and documents, each (pairs, dim).

    Raises what `embed` raises, InputError for fewer than two pairs and for embeddings that are none of length 1.
    """
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pairs cannot be told apart", remedy="give two or more")
    shown = [_shortened(pair, document_chars) for pair in pairs]
    queries, documents = [pair.query for pair in shown], [pair.document for pair in shown]
    row = {text: number for number, text in enumerate(dict.fromkeys(queries + documents))}
    vectors = embed(list(row))
    if vectors.ndim != 2 or len(vectors) != len(row):
        what = f"{len(row)} texts were embedded as an array of shape {vectors.shape}"
        raise InputError(what, remedy="give one embedding for each text")
    whole = quantise(vectors)
    return shown, whole[[row[text] for text in queries]], whole[[row[text] for text in documents]]


def shorten(text: str, characters: int) -> str:
    """A text of at most so many characters: its first whole words, or the beginning of a first word too long."""
    if len(text) <= characters:
        return text
    start, space, _ = text[: characters + 1].rpartition(" ")
    return start.rstrip() if space and start.strip() else text[:characters]


def _shortened(pair: Pair, characters: int) -> Pair:
    return Pair(shorten(pair.query, characters), shorten(pair.document, characters))
