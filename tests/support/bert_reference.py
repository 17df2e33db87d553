"""A plain numpy bert: WordPiece as Hugging Face does it, and the forward pass, straight from a GGUF file.

Absent biases and token types add nothing; `tokenizer.ggml.normalizer.*` and `vector_boot.max_tokens` are honoured.

The GGUF is read and dequantised by the gguf package, so this shares no code with what it is used to judge.
"""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_MAX_WORD = 100
_erf = np.vectorize(math.erf, otypes=[np.float32])


class BertReference:
    """A bert GGUF with mean pooling."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in self.reader.fields.items()}
        self.weights: dict[str, Array] = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in self.reader.tensors
            if tensor.tensor_type not in (gguf.GGMLQuantizationType.I8, gguf.GGMLQuantizationType.I32)
        }
        tokens: list[str] = self.fields["tokenizer.ggml.tokens"]
        kinds = self.fields["tokenizer.ggml.token_type"]
        # Special tokens are never matched in text.
        self.pieces = {token: index for index, token in enumerate(tokens) if kinds[index] != gguf.TokenType.CONTROL}

    def special(self, role: str) -> int:
        """The id of a special token: bos, eos, unknown, seperator, padding or mask."""
        return int(self.fields[f"tokenizer.ggml.{role}_token_id"])

    def number(self, key: str) -> Any:
        """A hyperparameter of the architecture."""
        return self.fields[f"bert.{key}"]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens around them, cut at the most tokens of the model."""
        lowercase = self.fields.get("tokenizer.ggml.normalizer.lowercase", True)
        strip_accents = self.fields.get("tokenizer.ggml.normalizer.strip_accents", lowercase)
        ids = [self.special("bos")]
        for word in split_words(text, lowercase=lowercase, strip_accents=strip_accents):
            ids += self._word_pieces(word)
        return [*ids[: self.most_tokens - 1], self.special("eos")]

    @property
    def most_tokens(self) -> int:
        """The most tokens of a text, with the special tokens around it."""
        context = int(self.number("context_length"))
        return min(context, int(self.fields.get("vector_boot.max_tokens", context)))

    def _word_pieces(self, word: str) -> list[int]:
        """Greedy longest match from the left; a word that does not come out whole is one unknown token."""
        if len(word) > _MAX_WORD:
            return [self.special("unknown")]
        ids = []
        start = 0
        while start < len(word):
            prefix = "\u2581" if start == 0 else ""
            for end in range(len(word), start, -1):
                piece = self.pieces.get(prefix + word[start:end])
                if piece is not None:
                    ids.append(piece)
                    start = end
                    break
            else:
                return [self.special("unknown")]
        return ids

    def embed(self, text: str) -> Array:
        """The L2-normalised embedding of a text, float32 [embedding_length]."""
        ids = self.tokenize(text)
        w = self.weights
        x = w["token_embd.weight"][ids] + w["position_embd.weight"][: len(ids)]
        if "token_types.weight" in w:
            x = x + w["token_types.weight"][0]
        x = self._norm(x, "token_embd_norm")
        for block in range(self.number("block_count")):
            x = self._block(x, f"blk.{block}.")
        pooled = x.mean(axis=0)
        embedding: Array = pooled / np.linalg.norm(pooled)
        return embedding

    def _block(self, x: Array, at: str) -> Array:
        x = self._norm(self._attention(x, at) + x, at + "attn_output_norm")
        hidden = self._linear(x, at + "ffn_up")
        hidden = 0.5 * hidden * (1 + _erf(hidden / np.float32(math.sqrt(2))))
        return self._norm(self._linear(hidden, at + "ffn_down") + x, at + "layer_output_norm")

    def _attention(self, x: Array, at: str) -> Array:
        heads = self.number("attention.head_count")
        width = x.shape[1] // heads
        if at + "attn_qkv.weight" in self.weights:
            parts = np.split(self._linear(x, at + "attn_qkv"), 3, axis=1)
        else:
            parts = [self._linear(x, at + part) for part in ("attn_q", "attn_k", "attn_v")]
        q, k, v = (part.reshape(len(x), heads, width).transpose(1, 0, 2) for part in parts)
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(width))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
        return self._linear(mixed.transpose(1, 0, 2).reshape(x.shape), at + "attn_output")

    def _linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.weights[name + ".weight"].T
        bias = self.weights.get(name + ".bias")
        return product if bias is None else product + bias

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        epsilon = np.float32(self.number("attention.layer_norm_epsilon"))
        scaled: Array = centred / np.sqrt(variance + epsilon) * self.weights[name + ".weight"]
        return scaled + self.weights[name + ".bias"]


def split_words(text: str, *, lowercase: bool = True, strip_accents: bool = True) -> list[str]:
    """Clean, space CJK characters, strip accents, lower the case, split on whitespace and around punctuation."""
    spaced = []
    for char in text:
        if char in "\0\ufffd" or (unicodedata.category(char)[0] == "C" and char not in "\t\n\r"):
            continue
        spaced.append(f" {char} " if _is_cjk(ord(char)) else " " if char.isspace() else char)
    plain = "".join(spaced)
    if strip_accents:
        plain = "".join(char for char in unicodedata.normalize("NFD", plain) if unicodedata.category(char) != "Mn")
    if lowercase:
        plain = plain.lower()
    return "".join(f" {char} " if _is_punctuation(char) else char for char in plain).split()


def _is_punctuation(char: str) -> bool:
    return char in r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""" or unicodedata.category(char)[0] == "P"


def _is_cjk(code: int) -> bool:
    ranges = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(first <= code <= last for first, last in ranges)
