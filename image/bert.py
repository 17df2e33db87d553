"""A bert model as GGUF: keys, tensor names, types and vocabulary as in llama.cpp (conversion/bert.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from image.embedding_settings import MAX_TOKENS_KEY, POOLING_TYPES
from image.gguf_writer import Model, Tensor, TensorType, boolean, f32, i32_array, string, string_array, u32
from vboot.gguf import Metadata

ModelType = Literal["F16", "F32", "Q8_0"]
"""What the matrices are stored as."""

# llama.cpp's llama_ftype: ALL_F32, MOSTLY_F16, MOSTLY_Q8_0.
FILE_TYPES: dict[ModelType, int] = {"F32": 0, "F16": 1, "Q8_0": 7}

_QUANTIZATION_VERSION = 2
_NORMAL, _CONTROL = 1, 3
_SPECIAL = {
    "bos": "[CLS]",
    "eos": "[SEP]",
    "unknown": "[UNK]",
    "seperator": "[SEP]",
    "padding": "[PAD]",
    "mask": "[MASK]",
}
# Read by row and added, never multiplied: the converter keeps them F32 in every type.
_ALWAYS_F32 = {"position_embd.weight", "token_types.weight"}


@dataclass(frozen=True)
class BertConfig:
    """The numbers of a bert with mean pooling; `licence` is an SPDX identifier.

    `max_tokens` is the most tokens of a text where the model takes fewer than its `context`.
    """

    name: str
    licence: str
    blocks: int
    context: int
    embedding: int
    feed_forward: int
    heads: int
    token_types: int
    epsilon: float
    max_tokens: int | None = None


def bert_gguf(
    config: BertConfig, *, vocabulary: Sequence[str], weights: Mapping[str, NDArray[np.float32]], stored_as: ModelType
) -> Model:
    """Return the GGUF of a bert.

    `vocabulary` is in the form of a WordPiece vocab.txt ("[CLS]", "the", "##ing"), one piece per id. `weights` are by
    GGUF name and in PyTorch's order, [outputs, inputs]; the order of the mapping is kept.
    """
    metadata = (*_general(config, stored_as), *_hyperparameters(config), *_tokenizer(config, vocabulary))
    return Model(metadata, tuple(_stored(name, array, stored_as) for name, array in weights.items()))


def _general(config: BertConfig, stored_as: ModelType) -> list[Metadata]:
    return [
        string("general.architecture", "bert"),
        string("general.type", "model"),
        string("general.name", config.name),
        string("general.license", config.licence),
        u32("general.file_type", FILE_TYPES[stored_as]),
        u32("general.quantization_version", _QUANTIZATION_VERSION),
    ]


def _hyperparameters(config: BertConfig) -> list[Metadata]:
    limit = [] if config.max_tokens is None else [u32(MAX_TOKENS_KEY, config.max_tokens)]
    return [
        u32("bert.block_count", config.blocks),
        u32("bert.context_length", config.context),
        u32("bert.embedding_length", config.embedding),
        u32("bert.feed_forward_length", config.feed_forward),
        u32("bert.attention.head_count", config.heads),
        f32("bert.attention.layer_norm_epsilon", config.epsilon),
        boolean("bert.attention.causal", False),
        u32("bert.pooling_type", POOLING_TYPES["mean"]),
        *limit,
    ]


def _tokenizer(config: BertConfig, vocabulary: Sequence[str]) -> list[Metadata]:
    special = set(_SPECIAL.values())
    kinds = [_CONTROL if piece in special else _NORMAL for piece in vocabulary]
    return [
        string("tokenizer.ggml.model", "bert"),
        # Names the pre-tokenizer. The converter derives it from a hash that this vocabulary shares with "bert-bge".
        string("tokenizer.ggml.pre", "jina-v2-en"),
        u32("tokenizer.ggml.token_type_count", config.token_types),
        string_array("tokenizer.ggml.tokens", [_phantom_space(piece, special) for piece in vocabulary]),
        i32_array("tokenizer.ggml.token_type", kinds),
        *(u32(f"tokenizer.ggml.{role}_token_id", vocabulary.index(piece)) for role, piece in _SPECIAL.items()),
        boolean("tokenizer.ggml.add_bos_token", True),
        boolean("tokenizer.ggml.add_eos_token", True),
        boolean("tokenizer.ggml.add_sep_token", False),
    ]


def _phantom_space(piece: str, special: set[str]) -> str:
    """Mark pieces that start a word with U+2581, and unmark those that go on inside one."""
    if piece in special:
        return piece
    return piece[2:] if piece.startswith("##") else "\u2581" + piece


def _stored(name: str, array: NDArray[np.float32], stored_as: ModelType) -> Tensor:
    """Vectors and the two small tables stay F32; token_embd is converted like any matrix, to Q8_0 too."""
    dims = tuple(reversed(array.shape))
    if array.ndim == 1 or name in _ALWAYS_F32 or stored_as == "F32":
        return Tensor(name, dims, TensorType.F32, array.astype("<f4", copy=False))
    stored = gguf.quants.quantize(array, gguf.GGMLQuantizationType[stored_as])
    return Tensor(name, dims, TensorType[stored_as], stored)
