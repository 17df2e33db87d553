"""Running the machine's network: texts of any number in requests of a size it takes, and pixel programs.

Both change no weights, so `Session` repeats what a restart interrupts, and cancels what nobody waits for any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vboot.client.session import Session
from vboot.client.uploads import Progress
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import MachineError, ProtocolError
from vboot.protocol.framing import BLOB_LIMIT, LINE_LIMIT
from vboot.protocol.messages import EmbeddedTexts, Embeddings, PixelRun, RunPixels

TEXTS_LIMIT = 64
"""Texts that one request may hold."""
PIXELS_LIMIT = BLOB_LIMIT // 3
"""Pixels that one request may hold."""

_TEXT_BYTES = LINE_LIMIT - 256
"""What is left of a line for the texts as JSON."""
_CHARACTERS_LIMIT = 4096
"""Of a request of more than one text: a token, of at least one character, takes a machine 15 KB and more while the
network runs, and a change of the weights waits for the end of the request. As JSON they always fit a line."""
_SECONDS_PER_CHARACTER = 0.2
"""A token, of at least one character, takes an emulated machine 0.1 s, and more the longer its text is."""
_FRAME_CHARACTERS = 2
"""The two tokens around each text."""
_GENERATIONS_TRIED = 3


def embed(
    session: Session, texts: Sequence[str], *, normalize: bool, patience: float, limit: float | None, progress: Progress
) -> Embeddings:
    """The embeddings of `texts`, all of one generation of the weights; `progress` is told texts done and in all.

    Each request gets `patience` seconds and what its texts may take a slow machine; `limit` (a time of the monotonic
    clock), where given, is the deadline of all together. Raises InputError for no texts and one too long to be sent,
    RequestRefusedError (1018: the model has no network; 1005: it gives no finite values), LinkLostError,
    MachineTimeoutError, ProtocolError; MachineError when the weights change too often.
    """
    if isinstance(texts, str):  # a sequence of letters, which nobody means
        raise InputError("the texts to embed are one str", remedy="give a list of texts")
    batches = tuple(_batches(texts))
    for _ in range(_GENERATIONS_TRIED):
        parts: list[Embeddings] = []
        for batch in batches:
            deadline = limit or time.monotonic() + patience + _seconds(batch)
            parts.append(_embed_batch(session, batch, normalize=normalize, deadline=deadline))
            if parts[-1].generation != parts[0].generation:
                break
            progress(sum(len(part.tokens) for part in parts), len(texts))
        else:
            return _joined(parts)
    raise MachineError(
        f"the weights kept changing while {len(texts)} texts were embedded", remedy="embed fewer at once"
    )


def execute_pixels(session: Session, pixels: bytes | Sequence[tuple[int, int, int]], *, deadline: float) -> PixelRun:
    """Run a program: three bytes (r, g, b) for each pixel, or as many tuples. Raises InputError for anything else."""
    reply = session.request("execute_pixels", {}, _pixel_bytes(pixels), deadline)
    result = decode(RunPixels, reply.result, name="execute_pixels")
    return PixelRun(result.result, result.steps, reply.blob or b"")


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


def _batches(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The texts, in order, as many at a time as a request takes."""
    if not texts:
        raise InputError("there is no text to embed", remedy="give one or more")
    batch: list[str] = []
    room = _CHARACTERS_LIMIT
    for number, text in enumerate(texts, start=1):
        # A lone surrogate is not refused here: encoding the request says what is wrong with it.
        size = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")) + 1
        if size > _TEXT_BYTES:
            what = f"text {number} is {size} bytes long, and a request holds {_TEXT_BYTES}"
            raise InputError(what, remedy="cut it: models read no more than their context, some hundred words")
        if batch and (len(batch) == TEXTS_LIMIT or len(text) > room):
            yield tuple(batch)
            batch, room = [], _CHARACTERS_LIMIT
        batch.append(text)
        room -= len(text) + _FRAME_CHARACTERS
    yield tuple(batch)


def _seconds(texts: Sequence[str]) -> float:
    return _SECONDS_PER_CHARACTER * sum(len(text) + _FRAME_CHARACTERS for text in texts)


def _embed_batch(session: Session, texts: Sequence[str], *, normalize: bool, deadline: float) -> Embeddings:
    params = {"texts": list(texts), **({} if normalize else {"normalize": False})}
    reply = session.request("embed", params, None, deadline)
    result = decode(EmbeddedTexts, reply.result, name="embed")
    counts = {result.count, len(result.tokens), len(texts)}
    if len(counts) != 1 or result.dim < 1 or len(reply.blob or b"") != result.count * result.dim * 4:
        what = f"the machine did not send an embedding for each of {len(texts)} texts"
        raise ProtocolError(what, remedy="report this bug")
    vectors = np.frombuffer(reply.blob or b"", "<f4").astype(np.float32).reshape(result.count, result.dim)
    return Embeddings(vectors, result.tokens, result.generation)


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    if len({part.vectors.shape[1] for part in parts}) != 1:
        raise ProtocolError("the machine's embeddings are of different lengths", remedy="report this bug")
    tokens = tuple(count for part in parts for count in part.tokens)
    return Embeddings(np.concatenate([part.vectors for part in parts]), tokens, parts[0].generation)


def _pixel_bytes(pixels: bytes | Sequence[tuple[int, int, int]]) -> bytes:
    try:
        data = pixels if isinstance(pixels, bytes) else b"".join(bytes(pixel) for pixel in pixels)
        whole = len(data) % 3 == 0 and (isinstance(pixels, bytes) or all(len(pixel) == 3 for pixel in pixels))
    except (ValueError, TypeError) as error:
        raise InputError(f"these are no pixels ({error})", remedy="give (r, g, b) of 0 to 255 for each") from error
    if not whole or not 1 <= len(data) // 3 <= PIXELS_LIMIT:
        what = f"{len(data)} bytes are no program of 1 to {PIXELS_LIMIT} pixels"
        raise InputError(what, remedy="give three bytes for each pixel")
    return data
