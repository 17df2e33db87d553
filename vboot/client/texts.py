"""Texts in requests: as many at a time as a request can hold, and the part of a long text that a line can hold.

A text that does not fit a line is shortened so that the machine reads the same tokens. That is possible because a model
reads only the first tokens of a text (some hundred), and because of how the machine's tokenizer (WordPiece) works:

* It removes control characters, and takes any run of whitespace for one space.
* A word of more than 100 characters becomes one unknown token, whatever its characters are.
* A space, a punctuation character or a Chinese character ends the word before it. So the tokens of a text that is cut
  there are the first tokens of the whole text. If they are more than the model reads, the result is that of the whole
  text to the bit; and as a line holds some ten thousand words, they are.

For some texts that cannot be shown: words of thousands of characters outside ASCII, or a model that reads more tokens
than a line holds. They are cut too, and marked as truncated like every text that is cut.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vboot.errors import InputError
from vboot.protocol.tables import LINE_LIMIT, TEXTS_LIMIT

TEXT_BYTES = LINE_LIMIT - 256
"""Bytes of one line for the texts as JSON; the other members of the request take fewer than 256."""
_BATCH_CHARACTERS = 4096
"""Most characters in a request of several texts; as JSON they fit a line. A machine uses 15 KB and more for a token (of
at least one character) while the network runs, and a change of the weights waits for the end of the request."""
FRAME_CHARACTERS = 2
"""The two tokens that the tokenizer adds to each text, counted as characters."""

_REMOVED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_WHITESPACE = re.compile(r"[ \t\n\r]+")
_WORD_LIMIT = 100
_UNKNOWN_WORD = re.compile(rf"([0-9A-Za-z]{{{_WORD_LIMIT + 1}}})[0-9A-Za-z]+")
_BOUNDARY = re.compile(r"[ !-/:-@\[-`{-~\u4e00-\u9fff]")
"""Characters that end the word before them: space, ASCII punctuation, and the largest block of Chinese characters."""


@dataclass(frozen=True)
class Batch:
    """The texts of one request: `first` is the index of the first one, `cut` says which were cut to fit a line."""

    first: int
    texts: tuple[str, ...]
    cut: tuple[bool, ...]

    @property
    def characters(self) -> int:
        """How many characters the machine has to read, the added tokens included: an upper limit of its tokens."""
        return sum(len(text) + FRAME_CHARACTERS for text in self.texts)


def batches(texts: Sequence[str]) -> Iterator[Batch]:
    """The texts, in order, in as few requests as they fit. Raises InputError for no texts, and for a single str."""
    if isinstance(texts, str):  # a string is also a sequence of texts, its characters
        raise InputError("expected a list of texts, got one str", remedy="give a list of texts")
    if not texts:
        raise InputError("there is no text to embed", remedy="give one or more")
    batch: list[tuple[str, bool]] = []
    room = _BATCH_CHARACTERS
    for number, text in enumerate(texts):
        fitted = fit(text)
        if batch and (len(batch) == TEXTS_LIMIT or len(fitted[0]) > room):
            yield _batch(number, batch)
            batch, room = [], _BATCH_CHARACTERS
        batch.append(fitted)
        room -= len(fitted[0]) + FRAME_CHARACTERS
    yield _batch(len(texts), batch)


def fit(text: str) -> tuple[str, bool]:
    """The text, or what of it fits a line, and whether it had to be cut. See the head of this file."""
    if _fits(text):
        return text, False
    text = _UNKNOWN_WORD.sub(r"\1", _WHITESPACE.sub(" ", _REMOVED.sub("", text)))
    if _fits(text):
        return text, False
    # The longest prefix that fits; one character more, which is then cut off, may be the boundary itself.
    length = bisect_right(range(1, TEXT_BYTES + 1), TEXT_BYTES, key=lambda count: _size(text[:count]))
    found = [match.start() for match in _BOUNDARY.finditer(text, 0, length + 1)]
    return text[: found[-1] if found and found[-1] else length], True


def _batch(end: int, batch: Sequence[tuple[str, bool]]) -> Batch:
    return Batch(end - len(batch), tuple(text for text, _ in batch), tuple(cut for _, cut in batch))


def _fits(text: str) -> bool:
    return len(text) <= TEXT_BYTES and _size(text) <= TEXT_BYTES


def _size(text: str) -> int:
    """Bytes of a text as JSON, with a comma."""
    # A lone surrogate is not refused here: the error of encoding the request explains it better.
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")) + 1
