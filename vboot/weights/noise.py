"""The noise of seeded edits: numpy's Philox4x64-10 stream with a key made of the seed and the tensor name.

One 64-bit word belongs to each element (or block) of a tensor. Its low half decides whether the element is selected;
the high half gives z = (number of bits set - 16) / 4, with mean 0 and variance 1/2.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_DOMAIN = b"vb1"
_WORDS_PER_COUNTER = 4


def key(seed: str, tensor: str) -> NDArray[np.uint64]:
    """The Philox key u64 (2,) for `seed` (16 hex digits) and a tensor: the start of a SHA-256, read little-endian."""
    digest = hashlib.sha256(_DOMAIN + bytes.fromhex(seed) + tensor.encode("utf-8")).digest()
    return np.frombuffer(digest[:16], "<u8").astype(np.uint64)


def words(key: NDArray[np.uint64], start: int, count: int) -> NDArray[np.uint64]:
    """Words `start` to `start + count` of the stream, u64 (count,); those before are not computed."""
    counter, skipped = divmod(start, _WORDS_PER_COUNTER)
    stream = np.random.Philox(key=key, counter=counter)
    drawn: NDArray[np.uint64] = stream.random_raw(skipped + count)
    return drawn[skipped:]


def threshold(density: float) -> int:
    """An element is selected if the low half of its word is less than this: floor(density * 2^32)."""
    return int(density * 2**32)


def selected(words: NDArray[np.uint64], density: float) -> NDArray[np.bool_]:
    """Whether each word u64 (n,) selects its element: bool (n,), true for about the share `density`."""
    low_halves = words.astype("<u8", copy=False).view("<u4")[::2]
    return low_halves < threshold(density)


def z(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """(bits set in the high half - 16) / 4 of words u64 (n,): f32 (n,), exact."""
    bits: NDArray[np.uint8] = np.bitwise_count(words >> np.uint64(32))
    return (bits.astype(np.float32) - np.float32(16)) * np.float32(0.25)
