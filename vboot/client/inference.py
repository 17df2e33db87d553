"""Running the machine's network: embeddings of any number of texts, and pixel programs.

Neither changes weights, so `Session` repeats a request that a restart interrupts, and cancels one that is given up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vboot.client.requests import Reply
from vboot.client.session import Session
from vboot.client.texts import Batch, batches
from vboot.client.uploads import Progress
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import MachineError, ProtocolError, RequestRefusedError, TextTooLongError
from vboot.protocol.messages import EmbeddedTexts, Embeddings, ExecutedPixels, PixelRun
from vboot.protocol.tables import BLOB_LIMIT, Code

Truncate: TypeAlias = Literal["end", "refuse"]
"""What to do with a text of more tokens than the model reads: ignore its end, or raise TextTooLongError."""

PIXELS_LIMIT = BLOB_LIMIT // 3
"""Most pixels in one request."""

_SECONDS_PER_CHARACTER = 0.2
"""An emulated machine takes 0.1 s for a token (of at least one character), and more the longer its text is."""
_GENERATIONS_TRIED = 3


def embed(
    session: Session,
    texts: Sequence[str],
    *,
    normalize: bool,
    truncate: Truncate,
    patience: float,
    limit: float | None,
    progress: Progress,
) -> Embeddings:
    """The embeddings of `texts`, all by the same generation of the weights.

    `progress` is called with the number of texts done and of all. Each request gets `patience` seconds, and the time
    that its texts may take on a slow machine; `limit` (a time of the monotonic clock in seconds), if given, is the
    deadline of all requests together. Raises InputError for no texts, TextTooLongError (only with `truncate` "refuse"),
    RequestRefusedError (1018: the model has no network; 1005: a value is not finite), LinkLostError,
    MachineTimeoutError, ProtocolError; MachineError if the weights change too often.
    """
    if truncate not in ("end", "refuse"):
        raise InputError(f"expected truncate 'end' or 'refuse', got {truncate!r:.40}")
    requests = tuple(batches(texts))
    for _ in range(_GENERATIONS_TRIED):
        parts: list[Embeddings] = []
        for batch in requests:
            deadline = limit or time.monotonic() + patience + _SECONDS_PER_CHARACTER * batch.characters
            parts.append(_embed_batch(session, batch, normalize=normalize, truncate=truncate, deadline=deadline))
            if parts[-1].generation != parts[0].generation:
                break
            progress(sum(len(part.tokens) for part in parts), len(texts))
        else:
            return _joined(parts)
    raise MachineError(
        f"the weights kept changing while {len(texts)} texts were embedded", remedy="embed fewer at once"
    )


def execute_pixels(session: Session, pixels: bytes | Sequence[tuple[int, int, int]], *, deadline: float) -> PixelRun:
    """Run a pixel program: three bytes (r, g, b) a pixel, or one tuple a pixel. Raises InputError for anything else."""
    reply = session.request("execute_pixels", {}, _pixel_bytes(pixels), deadline)
    result = decode(ExecutedPixels, reply.result, name="execute_pixels")
    return PixelRun(result.result, result.steps, reply.blob or b"")


def cosine_similarities(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine similarities of n vectors: float32 [n, dim] to float64 [n, n], each from -1 to 1.

    A vector of zeros has the similarity 0 to every vector.
    """
    wide = vectors.astype(np.float64)
    # The square of any float32 fits a float64, so nothing overflows.
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    directions = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    cosines: NDArray[np.float64] = np.clip(directions @ directions.T, -1.0, 1.0)
    return cosines


def _embed_batch(session: Session, batch: Batch, *, normalize: bool, truncate: Truncate, deadline: float) -> Embeddings:
    params = {
        "texts": list(batch.texts),
        **({} if normalize else {"normalize": False}),
        **({} if truncate == "end" else {"truncate": truncate}),
    }
    try:
        reply = session.request("embed", params, None, deadline)
    except RequestRefusedError as refusal:
        index = refusal.data.get("text") if isinstance(refusal.data, dict) else None
        if refusal.code == Code.MISMATCH and type(index) is int:
            raise TextTooLongError(batch.first + index) from refusal
        raise
    if truncate == "refuse" and True in batch.cut:
        raise TextTooLongError(batch.first + batch.cut.index(True))
    return _checked(reply, batch)


def _checked(reply: Reply, batch: Batch) -> Embeddings:
    """The embeddings in the reply to a batch. Raises ProtocolError if its parts do not fit together."""
    result = decode(EmbeddedTexts, reply.result, name="embed")
    truncated = (False,) * len(batch.texts) if result.truncated is None else result.truncated
    counts = {result.count, len(result.tokens), len(truncated), len(batch.texts)}
    if len(counts) != 1 or result.dim < 1 or len(reply.blob or b"") != result.count * result.dim * 4:
        what = f"the machine did not send an embedding for each of {len(batch.texts)} texts"
        raise ProtocolError(what, remedy="report this bug")
    vectors = np.frombuffer(reply.blob or b"", "<f4").astype(np.float32).reshape(result.count, result.dim)
    either = tuple(machine or client for machine, client in zip(truncated, batch.cut, strict=True))
    return Embeddings(vectors, result.tokens, result.generation, either)


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    if len({part.vectors.shape[1] for part in parts}) != 1:
        raise ProtocolError("the machine's embeddings are of different lengths", remedy="report this bug")
    return Embeddings(
        np.concatenate([part.vectors for part in parts]),
        tuple(count for part in parts for count in part.tokens),
        parts[0].generation,
        tuple(truncated for part in parts for truncated in part.truncated),
    )


def _pixel_bytes(pixels: bytes | Sequence[tuple[int, int, int]]) -> bytes:
    try:
        data = pixels if isinstance(pixels, bytes) else b"".join(bytes(pixel) for pixel in pixels)
        whole = len(data) % 3 == 0 and (isinstance(pixels, bytes) or all(len(pixel) == 3 for pixel in pixels))
    except (ValueError, TypeError) as error:
        raise InputError(f"these are not pixels ({error})", remedy="give (r, g, b) of 0 to 255 for each") from error
    if not whole or not 1 <= len(data) // 3 <= PIXELS_LIMIT:
        what = f"expected a program of 1 to {PIXELS_LIMIT} whole pixels, got {len(data)} bytes"
        raise InputError(what, remedy="give three bytes for each pixel")
    return data
