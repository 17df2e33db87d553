"""The tiny model: the same everywhere, and a working bert."""

from __future__ import annotations

import hashlib
import string
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from image.bert import ModelType
from image.compose import compose
from tests.support.bert_reference import BertReference

SHA256: dict[ModelType, str] = {
    "F16": "ee8528b5cb5264c99111517906d4224e889e7044cd5b51b202ff87b2e221969a",
    "F32": "e470e7a7feef7fd0d1ef1047c6ed9b82509d8abb3f9217cbb559982a2cef0410",
    "Q8_0": "a0268a99bc6b51c105d45b9d2c9803eefcf2f308b4b3bf9e987bb30e017d3c38",
}
TYPES: tuple[ModelType, ...] = ("F16", "F32", "Q8_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    for kind in TYPES:
        compose("tiny", path / f"{kind}.gguf", type=kind)
    return path


@pytest.fixture(scope="module")
def bert(folder: Path) -> BertReference:
    return BertReference(folder / "F32.gguf")


@pytest.mark.parametrize("kind", TYPES)
def test_the_bytes_never_change(folder: Path, kind: ModelType) -> None:
    assert hashlib.sha256((folder / f"{kind}.gguf").read_bytes()).hexdigest() == SHA256[kind]


def test_f16_is_the_default_and_the_model_is_small(folder: Path, tmp_path: Path) -> None:
    result = compose("tiny", tmp_path / "tiny.gguf")
    assert result.sha256 == SHA256["F16"]
    assert (result.architecture, result.name) == ("bert", "vector_boot tiny")
    machine = (1 << 20) + 17 * 4096
    assert result.bytes - machine < 400_000


def test_every_weight_is_exact_in_f16(folder: Path, bert: BertReference) -> None:
    half = BertReference(folder / "F16.gguf")
    for name, weight in bert.weights.items():
        assert np.array_equal(weight, half.weights[name]), name
        assert len(np.unique(weight)) > 8, name


def philox(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 (Salmon et al., 2011), written from the paper: the raw stream that numpy gives."""
    mask = 2**64 - 1
    words: list[int] = []
    for block in range(1, (count + 7) // 4):
        c0, c1, c2, c3 = block, 0, 0, 0
        k0, k1 = key
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & mask, (p0 >> 64) ^ c3 ^ k1, p0 & mask
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        words += [c0, c1, c2, c3]
    return words[:count]


@pytest.mark.parametrize(
    ("name", "offset", "scale"),
    [("blk.1.ffn_down.weight", 0.0, 1 / 8), ("token_embd_norm.weight", 1.0, 1 / 16), ("token_embd.weight", 0.0, 1.0)],
)
def test_weights_follow_the_written_rule(bert: BertReference, name: str, offset: float, scale: float) -> None:
    key = struct.unpack("<2Q", hashlib.sha256(b"vb1vb-tiny1" + name.encode()).digest()[:16])
    expected = [offset + ((word >> 32).bit_count() - 16) / 4 * scale for word in philox(key, 50)]
    assert bert.weights[name].reshape(-1)[:50].tolist() == expected


def test_any_ascii_text_is_tokenised_without_unknowns(bert: BertReference) -> None:
    unknown = bert.special("unknown")
    texts = [string.printable, "".join(map(chr, range(128))), "zqxj" * 25, "a" * 100, "~!@#$%^&*()_+{}|"]
    texts += [first + second for first in string.printable for second in string.printable]
    for text in texts:
        assert unknown not in bert.tokenize(text), text


def test_words_are_tokens_and_special_ones_are_in_place(bert: BertReference) -> None:
    tokens = bert.fields["tokenizer.ggml.tokens"]
    roles = {role: tokens[bert.special(role)] for role in ("bos", "eos", "unknown", "seperator", "padding", "mask")}
    assert roles == {
        "bos": "[CLS]",
        "eos": "[SEP]",
        "unknown": "[UNK]",
        "seperator": "[SEP]",
        "padding": "[PAD]",
        "mask": "[MASK]",
    }
    assert [tokens[index] for index in bert.tokenize("The king's Playing!")] == [
        *("[CLS]", "▁the", "▁king", "▁'", "▁s", "▁play", "ing", "▁!", "[SEP]"),
    ]
    assert len(tokens) == len(set(tokens)) == len(bert.weights["token_embd.weight"])


PAIRS = [
    ("A cat sits on the mat.", "A cat is sleeping on the mat."),
    ("The king drinks tea in the garden.", "A king drinks tea in his garden."),
    ("hot water and cold milk", "cold milk or hot water"),
]


@pytest.mark.parametrize("kind", TYPES)
def test_similar_texts_are_closer(folder: Path, kind: ModelType) -> None:
    model = BertReference(folder / f"{kind}.gguf")
    first = np.array([model.embed(a) for a, _ in PAIRS])
    second = np.array([model.embed(b) for _, b in PAIRS])
    cosines: NDArray[np.float32] = first @ second.T
    assert (cosines.argmax(axis=0) == np.arange(len(PAIRS))).all()
    assert (cosines.argmax(axis=1) == np.arange(len(PAIRS))).all()
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_position_and_every_layer_matter(bert: BertReference) -> None:
    assert np.abs(bert.embed("cat dog") - bert.embed("dog cat")).max() > 1e-3
    whole = bert.embed("cat dog")
    for name in list(bert.weights):
        if name.endswith("attn_k.bias"):
            # It adds the same to every score of a row, and softmax takes it out again.
            continue
        saved = bert.weights[name]
        bert.weights[name] = np.zeros_like(saved)
        assert np.abs(bert.embed("cat dog") - whole).max() > 1e-4, name
        bert.weights[name] = saved


def test_quantised_stays_close(folder: Path, bert: BertReference) -> None:
    quantised = BertReference(folder / "Q8_0.gguf")
    for text, _ in PAIRS:
        assert float(bert.embed(text) @ quantised.embed(text)) >= 0.999
