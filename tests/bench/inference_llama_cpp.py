"""llama.cpp as a driver: `python -m tests.bench.inference_llama_cpp MODEL.gguf OUTPUT THREADS`.

It is called through the C interface, as llama-cpp-python declares it: batches are filled outside the clock, a pass is
`llama_encode` and the pooled embeddings scaled to length one. Texts in strings are tokenised inside the clock. Texts
share a batch up to 512 tokens, its default: in larger ones it is slower, as every text looks at all the others and then
masks them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.inference_driver import Prepare, serve

_TOKENS = 512
_TEXTS = 64


def _load(llama_cpp: Any, arguments: list[str]) -> Prepare:
    path, _, threads, *_ = arguments
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit("llama_model_load_from_file refused the model")
    context = _context(llama_cpp, model, int(threads))
    encode = _tokenizer(llama_cpp, model)
    width = llama_cpp.llama_model_n_embd(model)
    batches: list[Any] = []

    def fill(texts: list[list[int]]) -> list[tuple[Any, int]]:
        """The batches that hold the texts, and how many each holds."""
        groups = _groups(texts)
        batches.extend(llama_cpp.llama_batch_init(_TOKENS, 0, 1) for _ in groups[len(batches) :])
        for batch, group in zip(batches, groups, strict=False):
            _fill(batch, group)
        return [(batch, len(group)) for batch, group in zip(batches, groups, strict=False)]

    def run(filled: list[tuple[Any, int]]) -> Any:
        rows = []
        for batch, texts in filled:
            if llama_cpp.llama_encode(context, batch):
                sys.exit("llama_encode failed")
            pooled = [llama_cpp.llama_get_embeddings_seq(context, text) for text in range(texts)]
            # The next batch overwrites them.
            rows += [np.ctypeslib.as_array(row, (width,)).copy() for row in pooled]
        stacked = np.stack(rows)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)

    def prepare(texts: list[Any]) -> Callable[[], Any]:
        if isinstance(texts[0], str):
            return lambda: run(fill([encode(text) for text in texts]))
        filled = fill(texts)
        return lambda: run(filled)

    return prepare


def _context(llama_cpp: Any, model: Any, threads: int) -> Any:
    """A context for embeddings, the mean over a text's tokens, of as many tokens at once as a pass may have."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _TOKENS
    params.n_seq_max = _TEXTS
    params.n_threads = params.n_threads_batch = threads
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    # Else a text may have only its share of the context.
    params.kv_unified = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit("llama_init_from_model refused the context")
    return context


def _groups(texts: list[list[int]]) -> list[list[list[int]]]:
    """The texts in order, in groups that fit a batch."""
    groups: list[list[list[int]]] = [[]]
    for text in texts:
        if sum(map(len, groups[-1])) + len(text) > _TOKENS:
            groups.append([])
        groups[-1].append(text)
    return groups


def _fill(batch: Any, texts: list[list[int]]) -> None:
    """Put texts into the batch, each a sequence of its own."""
    tokens = [(text, place, token) for text, ids in enumerate(texts) for place, token in enumerate(ids)]
    batch.n_tokens = len(tokens)
    for index, (text, place, token) in enumerate(tokens):
        batch.token[index], batch.pos[index] = token, place
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, text
        batch.logits[index] = 1


def _tokenizer(llama_cpp: Any, model: Any) -> Callable[[str], list[int]]:
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    ids = (llama_cpp.llama_token * _TOKENS)()

    def encode(text: str) -> list[int]:
        data = text.encode()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, _TOKENS, True, False)
        return list(ids[:count])

    return encode


if __name__ == "__main__":
    serve("llama_cpp", _load)
