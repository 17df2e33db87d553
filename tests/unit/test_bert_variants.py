"""Berts without their optional parts, with a fused projection, other tokenizer settings or a limit of tokens.

Each is the tiny model, rewritten by the gguf package, and run by the real executable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bert_reference import BertReference
from tests.support.local_machine import local_machine, tiny_model
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError

Tensors = dict[str, NDArray[np.float32]]
Change = Callable[[Tensors], Tensors]
TEXTS = ["the machine is a model", "Zo\u00eb SAW The machine", "", "a [SEP] b", "the " * 60]


def variant(path: Path, change: Change = dict, keys: Mapping[str, bool | int | None] = MappingProxyType({})) -> Path:
    """The tiny model in F32 with changed tensors and keys; a key of value None is left out."""
    reader = gguf.GGUFReader(tiny_model())
    writer = gguf.GGUFWriter(path, "bert")
    for key, field in reader.fields.items():
        if (
            key.startswith("GGUF.")
            or key in keys
            or key in ("general.architecture", "general.alignment", "vector_boot.layout")
        ):
            continue
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    integers = (gguf.GGMLQuantizationType.I8, gguf.GGMLQuantizationType.I32)
    stored = [tensor for tensor in reader.tensors if tensor.tensor_type not in integers]
    weights = {t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in stored}
    for name, values in change(weights).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def bare(tensors: Tensors) -> Tensors:
    """Without token types and without the bias of any matrix."""
    required = {name for name in tensors if not name.endswith(".bias") or "norm" in name}
    return {name: tensors[name] for name in tensors if name in required - {"token_types.weight"}}


def fused(tensors: Tensors) -> Tensors:
    """With one matrix for queries, keys and values."""
    done = {
        name: values for name, values in tensors.items() if name.split(".")[-2] not in ("attn_q", "attn_k", "attn_v")
    }
    for kind in ("weight", "bias"):
        for block in range(sum(name.endswith("attn_q.weight") for name in tensors)):
            parts = [tensors[f"blk.{block}.attn_{part}.{kind}"] for part in "qkv"]
            done[f"blk.{block}.attn_qkv.{kind}"] = np.concatenate(parts)
    return done


def fused_without_biases(tensors: Tensors) -> Tensors:
    """Both."""
    return bare(fused(tensors))


def reranker(tensors: Tensors) -> Tensors:
    """With the classifier of a reranker."""
    width = len(tensors["token_embd_norm.bias"])
    head = {"cls.weight": np.ones((width, width), np.float32), "cls.bias": np.ones(width, np.float32)}
    output = {"cls.output.weight": np.ones((2, width), np.float32), "cls.output.bias": np.ones(2, np.float32)}
    return {**tensors, **head, **output}


@contextmanager
def running(folder: Path, model: Path) -> Iterator[MachineClient]:
    with local_machine(folder, model=model) as local, connect(local.socket) as machine:
        yield machine


@pytest.mark.parametrize("change", [bare, fused, fused_without_biases, reranker])
def test_optional_parts_are_computed_as_by_the_twin(tmp_path: Path, change: Change) -> None:
    model = variant(tmp_path / "model.gguf", change)
    twin = BertReference(model)
    with running(tmp_path, model) as machine:
        made = machine.embed(TEXTS)
    for text, vector in zip(TEXTS, made.vectors, strict=True):
        assert np.allclose(vector, twin.embed(text), rtol=0, atol=2e-5), text


SETTINGS: list[Mapping[str, bool]] = [
    {"lowercase": False},
    {"strip_accents": False},
    {"lowercase": False, "strip_accents": True},
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_tokenizer_are_honoured(tmp_path: Path, setting: Mapping[str, bool]) -> None:
    keys = {f"tokenizer.ggml.normalizer.{name}": value for name, value in setting.items()}
    model = variant(tmp_path / "model.gguf", keys=keys)
    twin, plain = BertReference(model), BertReference(tiny_model())
    assert twin.tokenize(TEXTS[1]) != plain.tokenize(TEXTS[1])
    with running(tmp_path, model) as machine:
        made = machine.embed(TEXTS)
    assert made.tokens == tuple(len(twin.tokenize(text)) for text in TEXTS)
    for text, vector in zip(TEXTS, made.vectors, strict=True):
        assert np.allclose(vector, twin.embed(text), rtol=0, atol=2e-5), text


def test_the_models_limit_of_tokens_cuts_texts_and_says_so(tmp_path: Path) -> None:
    model = variant(tmp_path / "model.gguf", keys={"vector_boot.max_tokens": 16})
    twin = BertReference(model)
    with running(tmp_path, model) as machine:
        result = machine.request("embed", {"texts": ["the " * 14, "the " * 15, "the " * 16]}).result
        assert (result["tokens"], result["truncated"]) == ([16, 16, 16], [False, True, True])
        vectors = machine.embed(["the " * 15, "the " * 30]).vectors
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert np.allclose(vectors[0], twin.embed("the " * 15), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            {"bert.pooling_type": None},
            r"bert\.pooling_type is absent, expected 1 \(mean\), 2 \(cls\) or 3 \(last\): give",
        ),
        ({"tokenizer.ggml.normalizer.nfc": True}, r"has the setting normalizer\.nfc, expected lowercase"),
        ({"tokenizer.ggml.add_bos_token": False}, r"add_bos_token is false, expected true"),
    ],
)
def test_what_cannot_be_followed_boots_and_is_1018(tmp_path: Path, keys: dict[str, bool | None], why: str) -> None:
    with running(tmp_path, variant(tmp_path / "model.gguf", keys=keys)) as machine:
        assert machine.hello().emergency is None
        with pytest.raises(RequestRefusedError, match=why) as caught:
            machine.embed(["the machine"])
        assert caught.value.code == 1018


def test_a_special_token_in_a_text_is_plain_text(tmp_path: Path) -> None:
    twin = BertReference(tiny_model())
    with running(tmp_path, tiny_model()) as machine:
        tokens = machine.embed(["a [SEP] b"]).tokens
    ids = twin.tokenize("a [SEP] b")
    assert tokens == (len(ids),)
    assert ids.count(twin.special("seperator")) == 1
