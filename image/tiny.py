"""MODEL=tiny: a small bert made from integers alone, the same on every machine and in every language.

Two blocks of width 64 with random weights and a vocabulary of words and single characters. It is a working model (texts
with common words lie closer), not a trained one. The rule, for a second implementation:

* The vocabulary is spec/tiny_vocab.txt, in the form of a WordPiece vocab.txt; line n (from 0) is id n.
* Every tensor's elements are offset + z * scale in element order, PyTorch's [outputs, inputs] row by row. z is the
  noise of the protocol's `seeded` edits: w from numpy.random.Philox(key=K).random_raw, z = (popcount(w >> 32) - 16) / 4
  with K = the first 16 bytes of SHA-256("vb1", SEED, tensor name) as two little-endian u64.
* Scales are powers of two (`_SCALES`), 1/16 where none is given; offset is 1 for the weights of norms, else 0. So every
  element is exact in F16, and the F16 and the F32 model compute the same.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from image.bert import BertConfig, ModelType, bert_gguf
from image.gguf_writer import Model

SEED = b"vb-tiny1"

CONFIG = BertConfig(
    name="vector_boot tiny",
    licence="Apache-2.0",
    blocks=2,
    context=128,
    embedding=64,
    feed_forward=128,
    heads=4,
    token_types=2,
    epsilon=1e-12,
)

# Token embeddings are larger than positions, so that words matter more than their order; queries and keys are large
# enough for attention to prefer some tokens; the other scales keep the variance near one.
_SCALES = {
    "token_embd.weight": 1.0,
    "position_embd.weight": 1 / 8,
    "token_types.weight": 1 / 8,
    "attn_q.weight": 1 / 4,
    "attn_k.weight": 1 / 4,
    "attn_v.weight": 1 / 8,
    "attn_output.weight": 1 / 8,
    "ffn_up.weight": 1 / 8,
    "ffn_down.weight": 1 / 8,
}


def tiny(*, stored_as: ModelType) -> Model:
    """Return the tiny model as GGUF, with its matrices stored as `stored_as` says."""
    vocabulary = resources.files("spec").joinpath("tiny_vocab.txt").read_text("ascii").splitlines()
    weights = {name: _weights(name, shape) for name, shape in _shapes(len(vocabulary)).items()}
    return bert_gguf(CONFIG, vocabulary=vocabulary, weights=weights, stored_as=stored_as)


def _shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    d, ff = CONFIG.embedding, CONFIG.feed_forward
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, d),
        "position_embd.weight": (CONFIG.context, d),
        "token_types.weight": (CONFIG.token_types, d),
        "token_embd_norm.weight": (d,),
        "token_embd_norm.bias": (d,),
    }
    for block in range(CONFIG.blocks):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= {f"blk.{block}.{part}.weight": (d, d), f"blk.{block}.{part}.bias": (d,)}
        shapes |= {f"blk.{block}.ffn_up.weight": (ff, d), f"blk.{block}.ffn_up.bias": (ff,)}
        shapes |= {f"blk.{block}.ffn_down.weight": (d, ff), f"blk.{block}.ffn_down.bias": (d,)}
        for part in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{block}.{part}.weight": (d,), f"blk.{block}.{part}.bias": (d,)}
    return shapes


def _weights(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 weights of one tensor, by the rule above."""
    key = np.frombuffer(hashlib.sha256(b"vb1" + SEED + name.encode()).digest()[:16], dtype="<u8")
    words = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    z = (np.bitwise_count(words >> np.uint64(32)).astype(np.float32) - 16) / 4
    kind = name if name in _SCALES else name.split(".", 2)[-1]
    offset = 1 if name.endswith("norm.weight") else 0
    weights: NDArray[np.float32] = offset + z * np.float32(_SCALES.get(kind, 1 / 16))
    return weights.reshape(shape)
