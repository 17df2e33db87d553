"""onnxruntime as a driver: `python -m tests.bench.inference_onnxruntime GRAPH.onnx OUTPUT THREADS [VOCABULARY.gguf]`.

The graph is the one of tests/bench/onnx_graph.py. With a vocabulary, texts are taken too and go through Hugging Face's
`tokenizers`, inside the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.inference_driver import Prepare, serve


def _load(onnxruntime: Any, arguments: list[str]) -> Prepare:
    graph, _, threads, *vocabulary = arguments
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    encode = _tokenizer(vocabulary[0]) if vocabulary else None

    def prepare(texts: list[Any]) -> Callable[[], Any]:
        if encode is not None:
            return lambda: session.run(["embeddings"], {"ids": np.array(encode(texts), np.int64)})[0]
        ids = np.array(texts, np.int64)
        return lambda: session.run(["embeddings"], {"ids": ids})[0]

    return prepare


def _tokenizer(vocabulary: str) -> Callable[[list[str]], list[list[int]]]:
    """Token ids of texts that have equally many, by the vocabulary of a GGUF."""
    import gguf
    import tokenizers  # type: ignore[import-not-found, unused-ignore]

    tokens = gguf.GGUFReader(vocabulary).fields["tokenizer.ggml.tokens"].contents()
    # GGUF marks the pieces that begin a word, BERT's own vocabulary those that do not.
    ids = {_bert_spelling(token): index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.BertWordPieceTokenizer(ids, lowercase=True)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def _bert_spelling(token: str) -> str:
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token
    return token[1:] if token.startswith("\u2581") else f"##{token}"


if __name__ == "__main__":
    serve("onnxruntime", _load)
