"""Makes GGUF files for benchmarks, with the names and layout of language models, of any size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np

from image.gguf_writer import Model, Tensor, TensorType, boolean, f32, i32_array, plan, string, string_array, u32
from vboot.gguf import Metadata

_PARTS = (
    "attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight",
    "ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
)  # fmt: skip
_PIECE = 16 << 20


def synthetic(tensors: int, *, rows: int, columns: int, tokens: int) -> Model:
    """A model of `tensors` F16 matrices, all zero, and a vocabulary of `tokens` strings."""
    # Broadcast from one element: the shape counts, the memory is never there.
    weights = np.broadcast_to(np.zeros((), np.float16), (rows, columns))
    names = islice(_tensor_names(), tensors)
    return Model(
        _metadata(tokens=tokens), tuple(Tensor(name, (columns, rows), TensorType.F16, weights) for name in names)
    )


def write_sparse(path: Path, model: Model) -> None:
    """Write the head of a model and leave its tensors sparse: they read as zeros and take no space on disk."""
    planned = plan(model)
    path.write_bytes(planned.header)
    os.truncate(path, planned.size)


def write_random(path: Path, model: Model) -> None:
    """Write a model with pseudo-random bytes for its tensors, always the same, on the disk when this returns."""
    planned = plan(model)
    random = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(planned.header)
        for start in range(len(planned.header), planned.size, _PIECE):
            file.write(random.bytes(min(_PIECE, planned.size - start)))
        file.flush()
        os.fsync(file.fileno())


def _tensor_names() -> Iterator[str]:
    """Names as in llama.cpp, an endless iterator."""
    yield from ("token_embd.weight", "output_norm.weight", "output.weight")
    for block in count():
        for part in _PARTS:
            yield f"blk.{block}.{part}"


def _metadata(*, tokens: int) -> tuple[Metadata, ...]:
    """29 entries as a language model has them; `plan` adds the alignment.

    The architecture is one that no runtime knows, so that nothing is expected of the tensors.
    """
    texts = {"architecture": "synthetic", "name": "a model to measure with", "license": "Apache-2.0", "version": "1.0"}
    numbers = ("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
               "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
               "rope.dimension_count")  # fmt: skip
    floats = ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor")
    special = ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")
    entries = [string(f"general.{key}", text) for key, text in texts.items()]
    entries += [u32("general.quantization_version", 2), u32("general.file_type", 1)]
    entries += [u32(f"synthetic.{key}", 4096) for key in numbers]
    entries += [f32(f"synthetic.{key}", 1e-5) for key in floats]
    entries += [u32(f"tokenizer.ggml.{key}", number) for number, key in enumerate(special)]
    entries += [boolean("tokenizer.ggml.add_bos_token", True), boolean("tokenizer.ggml.add_eos_token", False)]
    entries += [string("tokenizer.ggml.model", "llama"), string("tokenizer.ggml.pre", "default")]
    entries += [string_array("tokenizer.ggml.tokens", [f"token{number}" for number in range(tokens)])]
    return (*entries, i32_array("tokenizer.ggml.token_type", [1] * tokens))
