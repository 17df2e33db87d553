"""Settings for embeddings that a bert model's file may lack: its pooling, and its own limit of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from image.gguf_writer import u32, with_entry
from vboot.errors import InputError
from vboot.gguf import Metadata, scalar

PoolingName = Literal["mean", "cls", "last"]
POOLING_TYPES: dict[PoolingName, int] = {"mean": 1, "cls": 2, "last": 3}
"""Numbers of llama.cpp's llama_pooling_type that this runtime computes."""

MAX_TOKENS_KEY = "vector_boot.max_tokens"
"""The most tokens of a text, [CLS] and [SEP] included, where that is less than the context length."""

MIN_TOKENS = 2
_ARCHITECTURE = "bert"
_POOLING_KEY = "bert.pooling_type"
_CONTEXT_KEY = "bert.context_length"


def with_embedding_settings(
    metadata: tuple[Metadata, ...], *, pooling: PoolingName | None, max_tokens: int | None, model: str
) -> tuple[Metadata, ...]:
    """The entries with `bert.pooling_type` and `vector_boot.max_tokens` added; None adds nothing.

    An existing pooling type is never changed, because the weights were trained with it. A limit of tokens is replaced.
    `model` is the file's name in errors. Raises InputError for another architecture than bert, a pooling type that
    contradicts the file's, and a limit outside 2 to the context length.
    """
    if pooling is None and max_tokens is None:
        return metadata
    architecture = scalar(metadata, "general.architecture")
    if architecture != _ARCHITECTURE:
        setting = "model.pooling" if pooling is not None else "model.max_tokens"
        what = f"{setting} is only for models of architecture bert, and that of {model} is {architecture!r}"
        raise InputError(what, remedy="leave it out")
    if pooling is not None:
        metadata = _with_pooling(metadata, pooling, model)
    if max_tokens is not None:
        metadata = _with_max_tokens(metadata, max_tokens, model)
    return metadata


def _with_pooling(metadata: Sequence[Metadata], pooling: PoolingName, model: str) -> tuple[Metadata, ...]:
    number = POOLING_TYPES[pooling]
    if any(entry.key == _POOLING_KEY for entry in metadata):
        stated = scalar(metadata, _POOLING_KEY)
        if stated != number:
            what = f"model.pooling = {pooling!r} is {_POOLING_KEY} {number}, but {model} states {stated}"
            raise InputError(what, remedy="leave it out")
        return tuple(metadata)
    return (*metadata, u32(_POOLING_KEY, number))


def _with_max_tokens(metadata: Sequence[Metadata], max_tokens: int, model: str) -> tuple[Metadata, ...]:
    context = scalar(metadata, _CONTEXT_KEY)
    if not isinstance(context, int):
        raise InputError(f"{model} has no {_CONTEXT_KEY}", remedy="leave model.max_tokens out")
    if not MIN_TOKENS <= max_tokens <= context:
        raise InputError(
            f"model.max_tokens = {max_tokens} is not from {MIN_TOKENS} to {context}, the {_CONTEXT_KEY} of {model}",
            remedy="choose a number in this range",
        )
    return with_entry(metadata, u32(MAX_TOKENS_KEY, max_tokens))
