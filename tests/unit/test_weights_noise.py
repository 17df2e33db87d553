"""The noise of seeded edits, against numpy's own Philox."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vboot.weights import noise

_SEEDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
_KEY = ["a75c883c4c61df79", "bc7eecf5239aae2b"]
_WORDS = ["656664910a5ea143", "c2318a6f32d5dd5b", "085d74f6b8a818d4", "7246d1f268262910", "c61f2e290ade6ed5"]


@settings(derandomize=True, deadline=None)
@given(_SEEDS, st.text(max_size=30))
def test_the_key_is_the_start_of_a_sha256(seed: str, tensor: str) -> None:
    digest = hashlib.sha256(b"vb1" + bytes.fromhex(seed) + tensor.encode()).digest()
    low, high = (int(word) for word in noise.key(seed, tensor))
    assert low == int.from_bytes(digest[:8], "little")
    assert high == int.from_bytes(digest[8:16], "little")


@settings(derandomize=True, deadline=None)
@given(_SEEDS, st.integers(0, 300), st.integers(0, 100))
def test_any_piece_of_the_stream_is_numpys(seed: str, start: int, count: int) -> None:
    key = noise.key(seed, "token_embd.weight")
    whole = np.random.Philox(key=key).random_raw(start + count)
    assert noise.words(key, start, count).tolist() == whole[start:].tolist()


def test_words_far_along_follow_from_the_counter() -> None:
    key = noise.key("0123456789abcdef", "t")
    stream = np.random.Philox(key=key)
    stream.advance(10**12)
    assert noise.words(key, 4 * 10**12 + 1, 6).tolist() == stream.random_raw(7)[1:].tolist()


def test_literal_words() -> None:
    """So that a numpy with another Philox is noticed."""
    key = noise.key("00c0ffee00c0ffee", "blk.0.attn_q.weight")
    assert [f"{word:016x}" for word in key] == _KEY
    assert [f"{word:016x}" for word in noise.words(key, 0, 5)] == _WORDS


def test_selection_compares_the_low_half() -> None:
    words = np.array([0x0000_0000_7FFF_FFFF, 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF, 0], np.uint64)
    assert noise.selected(words, 0.5).tolist() == [True, False, False, True]
    assert noise.selected(words, 1.0).tolist() == [True] * 4
    assert noise.selected(words, 0.0).tolist() == [False] * 4
    assert noise.selected(words, 1.9 / 2**32).tolist() == [False, False, False, True]


def test_z_counts_the_bits_of_the_high_half() -> None:
    words = np.array([0x0000_0000_FFFF_FFFF, 0xFFFF_FFFF_0000_0000, 0x0000_FFFF_0000_0000, 1 << 63], np.uint64)
    assert noise.z(words).tolist() == [-4.0, 4.0, 0.0, -3.75]
    assert noise.z(words).dtype == np.float32


def test_z_has_mean_0_and_variance_one_half() -> None:
    z = noise.z(noise.words(noise.key("0" * 16, "t"), 0, 100_000)).astype(np.float64)
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 0.5) < 0.01
